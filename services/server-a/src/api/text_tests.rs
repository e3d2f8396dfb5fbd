use proptest::prelude::*;

use super::*;

#[test]
fn numbers_are_normalised_to_e164() {
    for (text, expected) in [
        ("+14155550123", "+14155550123"),
        ("+1 (415) 555-0123", "+14155550123"),
        ("+44 20.7946.0958", "+442079460958"),
        ("+44 (0)20 7946 0958", "+442079460958"),
        ("+390236618300", "+390236618300"),
        ("+4915123456789", "+4915123456789"),
    ] {
        assert_eq!(normalize_e164(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_e164_is_refused() {
    for text in [
        "",
        "+",
        "+1",
        "14155550123",
        "0014155550123",
        "(415) 555-0123",
        "+1415555012",
        "+5550123",
        "+141555501234567890",
        "+999123456789",
        "+0123456789",
        "+1-800-FLOWERS",
        // Two trunk prefixes in a row.
        "+640000000",
        "+14155550123 ext. 5",
        "+14155550123;ext=5",
        "tel:+14155550123",
        "++14155550123",
        "+1415555\u{0660}123",
        "+14155550123\n",
        "+1 4 1 5 5 5 5 0 1 2 3              ",
    ] {
        assert_eq!(normalize_e164(text), Err(NOT_E164), "{text:?}");
    }
}

#[test]
fn senders_are_numbers_short_codes_or_names() {
    for (text, expected) in [
        ("+1 415 555 0123", "+14155550123"),
        ("123", "123"),
        ("12345678", "12345678"),
        ("ACME", "ACME"),
        ("A", "A"),
        ("Shop-24 & Co", ""),
        ("Shop-24&Co.", "Shop-24&Co."),
        ("my_shop 1", "my_shop 1"),
        ("1A", "1A"),
    ] {
        let expected = if expected.is_empty() {
            Err(NOT_A_SENDER)
        } else {
            Ok(expected.to_owned())
        };
        assert_eq!(normalize_sender(text), expected, "{text}");
    }
}

#[test]
fn other_senders_are_refused() {
    for text in [
        "",
        " ",
        "12",
        "123456789",
        "12 34",
        "ABCDEFGHIJKL",
        "Café",
        "ACME!",
        "AC\nME",
        "+123",
        "....",
    ] {
        assert_eq!(normalize_sender(text), Err(NOT_A_SENDER), "{text:?}");
    }
}

#[test]
fn segments_follow_the_limits_of_each_encoding() {
    use Encoding::{Gsm7, Ucs2};
    for (character, count, expected) in [
        ("a", 0, (Gsm7, 1)),
        ("a", 160, (Gsm7, 1)),
        ("a", 161, (Gsm7, 2)),
        ("a", 306, (Gsm7, 2)),
        ("a", 307, (Gsm7, 3)),
        ("a", 1530, (Gsm7, 10)),
        ("a", 1531, (Gsm7, 11)),
        // Two septets each; a part of 153 holds 76.
        ("€", 80, (Gsm7, 1)),
        ("€", 81, (Gsm7, 2)),
        ("€", 152, (Gsm7, 2)),
        ("€", 153, (Gsm7, 3)),
        ("я", 70, (Ucs2, 1)),
        ("я", 71, (Ucs2, 2)),
        ("я", 134, (Ucs2, 2)),
        ("я", 135, (Ucs2, 3)),
        // Two units each; a part of 67 holds 33.
        ("😀", 35, (Ucs2, 1)),
        ("😀", 36, (Ucs2, 2)),
        ("😀", 66, (Ucs2, 2)),
        ("😀", 67, (Ucs2, 3)),
        // More than a concatenated SMS can have.
        ("a", 153 * 255, (Gsm7, 255)),
        ("a", 153 * 255 + 1, (Gsm7, u16::MAX)),
        ("я", 67 * 255 + 1, (Ucs2, u16::MAX)),
    ] {
        let body = character.repeat(count);
        assert_eq!(measure(&body), expected, "{count} of {character}");
    }
}

/// 3GPP TS 23.038, 6.2.1: the default alphabet in its order, without the escape.
const ALPHABET: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡\
    ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// 3GPP TS 23.038, 6.2.1.1, without the form feed, which the library sends as UCS-2.
const EXTENSION: &str = "^{}\\[~]|€";

#[test]
fn the_alphabet_is_that_of_the_specification() {
    assert_eq!(ALPHABET.chars().count(), 127);
    for character in ALPHABET.chars() {
        let body = character.to_string().repeat(160);
        assert_eq!(measure(&body), (Encoding::Gsm7, 1), "{character:?}");
    }
    for character in EXTENSION.chars() {
        let body = character.to_string().repeat(80);
        assert_eq!(measure(&body), (Encoding::Gsm7, 1), "{character:?}");
        assert_eq!(measure(&(body + "a")), (Encoding::Gsm7, 2), "{character:?}");
    }
    for character in ['ç', '`', '\t', '\u{0c}', '’', 'á'] {
        assert_eq!(measure(&character.to_string()), (Encoding::Ucs2, 1));
    }
}

/// Splits greedily, character by character: an independent statement of the rule.
fn greedy(units: &[usize], single: usize, part: usize) -> u16 {
    if units.iter().sum::<usize>() <= single {
        return 1;
    }
    let (mut parts, mut room) = (0, 0);
    for unit in units {
        if *unit > room {
            parts += 1;
            room = part;
        }
        room -= unit;
    }
    parts
}

proptest! {
    #[test]
    fn an_extension_character_is_never_split(
        body in proptest::collection::vec(
            proptest::sample::select((ALPHABET.to_owned() + &EXTENSION.repeat(10)).chars().collect::<Vec<_>>()),
            0..1600,
        )
    ) {
        let septets: Vec<usize> =
            body.iter().map(|c| if EXTENSION.contains(*c) { 2 } else { 1 }).collect();
        let body: String = body.into_iter().collect();
        prop_assert_eq!(measure(&body), (Encoding::Gsm7, greedy(&septets, 160, 153)));
        let (parts, _) = Gsm7BitUnpacked::new().concatenate(&body, 160, 7).expect("all encodable");
        if let Concatenation::Concatenated(parts) = parts {
            prop_assert!(parts.iter().all(|part| part.len() <= 153 && part.last() != Some(&0x1b)));
        }
    }

    #[test]
    fn a_surrogate_pair_is_never_split(body in proptest::collection::vec(
        prop_oneof![Just('a'), Just('я'), Just('😀'), any::<char>()], 0..700,
    )) {
        let body: String = body.into_iter().chain(['я']).collect();
        let units: Vec<usize> = body.chars().map(char::len_utf16).collect();
        prop_assert_eq!(measure(&body), (Encoding::Ucs2, greedy(&units, 70, 67)));
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in any::<String>()) {
        let _ = measure(&text);
        if let Ok(number) = normalize_e164(&text) {
            prop_assert_eq!(normalize_e164(&number), Ok(number.clone()));
        }
        let _ = normalize_sender(&text);
    }

    #[test]
    fn a_normal_number_stays_as_it_is(text in "\\+[1-9][0-9]{6,16}") {
        if let Ok(number) = normalize_e164(&text) {
            prop_assert!(number.len() <= 16);
            prop_assert_eq!(normalize_e164(&number), Ok(number.clone()));
        }
    }
}
