//! What an SMS is made of: numbers, senders, and text with its encoding and segments.

use rlibphonenumber::{NumberLengthType, PhoneNumber, PhoneNumberFormat};
use rusmpp_extra::concatenation::owned::{Concatenation, Concatenator};
use rusmpp_extra::encoding::gsm7bit::{Gsm7BitConcatenateError, Gsm7BitUnpacked};
use wire_contract::Encoding;

/// Septets of one GSM-7 SMS, and those that the concatenation header takes from each of several
/// (3GPP TS 23.040, 9.2.3.24.1): 160, or 153 each.
const GSM7_SEPTETS: (usize, usize) = (160, 7);
/// UTF-16 units of one UCS-2 SMS, and of each of several.
const UCS2_UNITS: (usize, usize) = (70, 67);
/// Digits of an E.164 number at most (ITU-T E.164, 6.2.1).
const E164_DIGITS: usize = 15;
/// Longest text that is looked at as a number; 15 digits with any usual punctuation fit.
const NUMBER_TEXT: usize = 32;
/// What people put between the digits of a number.
const SEPARATORS: [char; 5] = [' ', '-', '.', '(', ')'];

const NOT_E164: &str =
    "must be a phone number in E.164 form: + and country code, such as +14155550123";
const NOT_A_SENDER: &str = "must be a phone number in E.164 form, a short code of 3 to 8 digits, \
     or 1 to 11 of the characters A-Z a-z 0-9 space . _ - & with at least one letter";

/// Normalises a phone number to E.164.
///
/// The number must be possible in its country, which is a rule of length. Whether its range is
/// assigned is not asked: assignments change more often than this binary.
///
/// # Errors
/// What a number must look like; never the number itself.
pub fn normalize_e164(text: &str) -> Result<String, &'static str> {
    let digits = text.strip_prefix('+').ok_or(NOT_E164)?;
    // The library would also take letters, extensions and `tel:` forms, and drop what it cannot use.
    let plain = digits
        .chars()
        .all(|c| c.is_ascii_digit() || SEPARATORS.contains(&c));
    if !plain || text.len() > NUMBER_TEXT {
        return Err(NOT_E164);
    }
    let normal = possible_e164(text)?;
    // A trunk prefix was dropped, as in +44 (0)20…: what is left must be a number as it stands.
    let changed = digits
        .chars()
        .filter(char::is_ascii_digit)
        .ne(normal.chars().skip(1));
    if changed && possible_e164(&normal)? != normal {
        return Err(NOT_E164);
    }
    Ok(normal)
}

fn possible_e164(text: &str) -> Result<String, &'static str> {
    let number: PhoneNumber = text.parse().map_err(|_| NOT_E164)?;
    match number.is_possible_with_reason() {
        Ok(NumberLengthType::IsPossible) => {}
        Ok(NumberLengthType::IsPossibleLocalOnly) | Err(_) => return Err(NOT_E164),
    }
    let normal = number.format_as(PhoneNumberFormat::E164).into_owned();
    if normal.len() > 1 + E164_DIGITS {
        return Err(NOT_E164);
    }
    Ok(normal)
}

/// Normalises a sender: an E.164 number, a short code or an alphanumeric name (3GPP TS 23.040, 9.1.2.5).
///
/// # Errors
/// What a sender must look like.
pub fn normalize_sender(text: &str) -> Result<String, &'static str> {
    if text.starts_with('+') {
        return normalize_e164(text).map_err(|_| NOT_A_SENDER);
    }
    let short_code = (3..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    let name = (1..=11).contains(&text.len())
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b" ._-&".contains(&b));
    if short_code || name {
        Ok(text.to_owned())
    } else {
        Err(NOT_A_SENDER)
    }
}

/// How a text is encoded on air and the segments it takes: GSM-7 when every character is in the
/// default alphabet or its extension (3GPP TS 23.038, 6.2.1), UCS-2 otherwise. A character of two
/// septets or of two UTF-16 units is never split between segments.
///
/// `u16::MAX` segments stand for more than a concatenated SMS can have (255).
#[must_use]
pub fn measure(body: &str) -> (Encoding, u16) {
    let (septets, header) = GSM7_SEPTETS;
    match Gsm7BitUnpacked::new().concatenate(body, septets, header) {
        Ok((Concatenation::Single(_), _)) => (Encoding::Gsm7, 1),
        Ok((Concatenation::Concatenated(parts), _)) => (Encoding::Gsm7, saturate(parts.len())),
        Err(Gsm7BitConcatenateError::Encode(_)) => (Encoding::Ucs2, ucs2_segments(body)),
        // With 153 septets a part, the only other error is that there are too many parts.
        Err(_) => (Encoding::Gsm7, u16::MAX),
    }
}

/// rusmpp-extra's UCS-2 refuses characters outside the basic plane; phones show them as pairs.
fn ucs2_segments(body: &str) -> u16 {
    let (single, part) = UCS2_UNITS;
    if body.encode_utf16().count() <= single {
        return 1;
    }
    let (mut segments, mut used) = (1, 0);
    for character in body.chars() {
        let units = character.len_utf16();
        if used + units > part {
            segments += 1;
            used = 0;
        }
        used += units;
    }
    saturate(segments)
}

fn saturate(segments: usize) -> u16 {
    match u16::try_from(segments) {
        Ok(segments) if segments <= 255 => segments,
        _ => u16::MAX,
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
