//! `ERRORS.md` of a service, held against its code.

use std::collections::HashSet;
use std::path::Path;
use std::{env, fs};

/// Set to write the pages anew.
const UPDATE: &str = "UPDATE_ERRORS";

/// Kinds of `service_runtime::problem` that every service answers with.
const OF_ALL: [&str; 3] = ["internal", "method_not_allowed", "not_found"];

/// Holds the page that the code makes against the one that is kept beside the crate's sources, its rows against what
/// they should be, and the codes that the crate's sources declare against the rows: one left out of the catalogue would be on
/// no page. What each service may answer, though another crate declares it, must be there, too.
///
/// # Panics
/// When anything differs.
pub fn check(crate_dir: &str, page: &str) {
    let kept = Path::new(crate_dir).join("ERRORS.md");
    if env::var_os(UPDATE).is_some() {
        fs::write(&kept, page).expect("the page can be written");
    }
    let written = fs::read_to_string(&kept).unwrap_or_default();
    assert_eq!(
        written,
        page,
        "{UPDATE}=1 and this test write {} anew",
        kept.display()
    );
    let mut codes = HashSet::new();
    for row in page.lines().filter(|line| line.contains("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [status, code, title, retry, help] = cells[..] else {
            panic!("a row has five cells: {row}");
        };
        let code = code.trim_matches('`');
        let word = code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        assert!(word && !title.is_empty() && !help.is_empty(), "{row}");
        // Who is told to come back is told when.
        let says_when = ["429", "503"].contains(&status);
        assert!(retry == "yes" || !says_when, "{row}");
        assert!(codes.insert(code), "twice: {row}");
    }
    let in_sources = declared(&Path::new(crate_dir).join("src"));
    assert!(!in_sources.is_empty(), "no kind of problem in {crate_dir}");
    for code in in_sources.into_iter().chain(OF_ALL.map(str::to_owned)) {
        assert!(codes.contains(code.as_str()), "{code} is in no catalogue");
    }
}

/// The codes of the kinds that the sources below a folder declare.
fn declared(folder: &Path) -> Vec<String> {
    let mut codes = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            codes.extend(declared(&path));
            continue;
        }
        let source = fs::read_to_string(&path).expect("a source");
        let kinds = source.split("ProblemType = ProblemType {").skip(1);
        let code = |kind: &str| Some(kind.split_once("code: \"")?.1.split_once('"')?.0.to_owned());
        codes.extend(kinds.filter_map(code));
    }
    codes
}
