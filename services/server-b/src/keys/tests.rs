use super::*;

const FIRST: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const SECOND: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn args(mode: ApiKeyMode, keys: Option<&str>) -> KeyArgs {
    KeyArgs {
        api_key_mode: mode,
        key_sealing_key_file: None,
        key_sealing_key: keys.map(Into::into),
    }
}

fn plain(keys: &str) -> KeyRing {
    KeyRing::from_args(&args(ApiKeyMode::Plain, Some(keys))).expect("usable keys")
}

fn import(key: &str) -> Result<NewKey, InvalidKey> {
    NewKey::import(key.into())
}

#[test]
fn a_generated_key_is_well_formed_and_never_the_same() {
    let (one, other) = (NewKey::generate(), NewKey::generate());
    assert_ne!(one.expose(), other.expose());
    assert!(!is_mistyped(one.expose()));
    assert_eq!(one.expose().len(), 40);
    assert_eq!(one.prefix(), &one.expose()[..8]);
    assert!(import(one.expose()).is_ok());
}

#[test]
fn the_checksum_tells_every_single_mistyped_character() {
    let key = NewKey::generate();
    for position in KEY_PREFIX.len()..key.expose().len() {
        for replacement in *BASE62 {
            let mut typed = key.expose().as_bytes().to_vec();
            if typed[position] == replacement {
                continue;
            }
            typed[position] = replacement;
            let typed = String::from_utf8(typed).expect("base62");
            assert_eq!(import(&typed).err(), Some(InvalidKey::Mistyped));
        }
    }
}

#[test]
fn a_generated_key_that_was_cut_off_is_mistyped() {
    let key = NewKey::generate();
    assert!(is_mistyped(&key.expose()[..39]));
    assert!(is_mistyped("isk_"));
    assert!(is_mistyped("isk_äääääääääääääääääää"));
}

#[test]
fn imported_keys_are_printable_ascii_of_8_to_256_characters() {
    assert!(import("12345678").is_ok());
    assert!(import(&"k".repeat(256)).is_ok());
    assert_eq!(import("1234567").err(), Some(InvalidKey::Length));
    assert_eq!(import(&"k".repeat(257)).err(), Some(InvalidKey::Length));
    assert_eq!(import("with space").err(), Some(InvalidKey::Characters));
    assert_eq!(import("schlüssel-1").err(), Some(InvalidKey::Characters));
    assert_eq!(import("sha256:abcdef").err(), Some(InvalidKey::Reserved));
}

#[test]
fn the_prefix_of_an_imported_key_shows_at_most_a_quarter_of_it() {
    let prefix = |key: &str| import(key).expect("acceptable").prefix().to_owned();
    assert_eq!(prefix("abcdefgh"), "ab");
    assert_eq!(prefix("abcdefghijkl"), "abc");
    assert_eq!(prefix("abcdefghijklmnopqrstuvwxyz"), "abcd");
}

#[test]
fn a_sealed_key_opens_again_and_looks_different_each_time() {
    let ring = plain(FIRST);
    let (one, other) = (ring.seal("the-key-1"), ring.seal("the-key-1"));
    assert_ne!(one, other);
    for sealed in [one, other] {
        let sealed = sealed.expect("plain mode seals");
        assert_eq!(sealed[0], 1);
        assert_eq!(sealed.len(), 1 + 12 + 9 + 16);
        let opened = ring.open(&sealed).expect("sealed with this ring");
        assert_eq!(opened.expose_secret(), "the-key-1");
    }
}

#[test]
fn the_first_line_seals_and_all_lines_open() {
    let old = plain(&format!("1:{FIRST}"));
    let new = plain(&format!("# rotated\n2:{SECOND}\n1:{FIRST}\n"));
    let before = old.seal("the-key-1").expect("plain mode seals");
    let after = new.seal("the-key-1").expect("plain mode seals");
    assert_eq!(after[0], 2);
    assert!(new.open(&before).is_ok());
    assert!(new.open(&after).is_ok());
    assert_eq!(old.open(&after).err(), Some(KeyError::UnknownKeyId(2)));
}

#[test]
fn a_wrong_key_a_changed_byte_and_a_cut_are_refused() {
    let sealed = plain(FIRST).seal("the-key-1").expect("plain mode seals");
    assert_eq!(plain(SECOND).open(&sealed).err(), Some(KeyError::Forged));
    let mut changed = sealed.clone();
    changed[20] ^= 1;
    assert_eq!(plain(FIRST).open(&changed).err(), Some(KeyError::Forged));
    assert_eq!(
        plain(FIRST).open(&sealed[..9]).err(),
        Some(KeyError::Truncated)
    );
    assert_eq!(plain(FIRST).open(&[]).err(), Some(KeyError::Truncated));
}

#[test]
fn digest_mode_needs_no_sealing_key_and_seals_nothing() {
    let ring = KeyRing::from_args(&args(ApiKeyMode::Digest, None)).expect("no key needed");
    assert_eq!(ring.mode(), ApiKeyMode::Digest);
    assert_eq!(ring.seal("the-key-1"), None);
}

#[test]
fn plain_mode_without_a_sealing_key_says_what_to_set() {
    for keys in [None, Some(""), Some(" \n")] {
        let error = KeyRing::from_args(&args(ApiKeyMode::Plain, keys)).expect_err("no key");
        assert!(
            error.to_string().contains("KEY_SEALING_KEY_FILE"),
            "{error}"
        );
        assert!(
            error.to_string().contains("openssl rand -base64 32"),
            "{error}"
        );
    }
}

#[test]
fn unusable_sealing_keys_are_refused_without_being_quoted() {
    let twice = format!("1:{FIRST}\n1:{SECOND}");
    for keys in [
        "c2hvcnQ=",
        "0:c2hvcnQ=",
        "256:c2hvcnQ=",
        "not base64!",
        twice.as_str(),
    ] {
        let error = KeyRing::from_args(&args(ApiKeyMode::Plain, Some(keys))).expect_err("unusable");
        let text = format!("{error:#} {error:?}");
        for secret in ["c2hvcnQ", "not base64", FIRST, SECOND] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn debug_shows_no_key() {
    let key = NewKey::generate();
    let ring = plain(FIRST);
    let text = format!(
        "{key:?} {ring:?} {:?}",
        args(ApiKeyMode::Plain, Some(FIRST))
    );
    assert!(
        !text.contains(key.expose()) && !text.contains("AAAA"),
        "{text}"
    );
}
