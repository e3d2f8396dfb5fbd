use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use service_runtime::problem::markdown_page;

use super::*;

const PAGE: &str = "ERRORS.md";

fn below_the_crate(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn the_page_is_what_the_code_says() {
    let page = markdown_page("server A", &catalogue());
    let path = below_the_crate(PAGE);
    if env::var_os("UPDATE_ERRORS").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    let written = fs::read_to_string(&path).expect("the page is there");
    assert_eq!(
        written, page,
        "UPDATE_ERRORS=1 cargo test --profile fast -p server-a the_page writes {PAGE} anew"
    );
}

#[test]
fn each_code_is_listed_once_and_is_a_word_of_its_own() {
    let mut seen = HashSet::new();
    for kind in catalogue() {
        assert!(seen.insert(kind.code), "{} twice", kind.code);
        let word = kind
            .code
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(word, "{}", kind.code);
        for text in [kind.title, kind.help] {
            assert!(
                !text.is_empty() && !text.contains(['|', '\n']),
                "{}",
                kind.code
            );
        }
        // Who is told to come back is told when.
        let says_when = [429, 503].contains(&kind.status.as_u16());
        assert!(kind.retry || !says_when, "{}", kind.code);
    }
}

/// A problem that is made without an entry of the catalogue would be on no page and in no OpenAPI document.
#[test]
fn no_problem_of_server_a_is_made_without_an_entry() {
    let mut folders = vec![below_the_crate("src")];
    let mut sources = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(&path).expect("a source");
            sources += 1;
            for call in ["new(", "unavailable("] {
                let call = format!("Problem::{call}");
                assert!(!source.contains(&call), "{call}…) in {}", path.display());
            }
        }
    }
    assert!(sources > 20, "{sources}");
}
