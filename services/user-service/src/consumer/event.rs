//! From a body to the reference that it asks for, or to the reason why it can never become one.

use serde::Deserialize;
use service_runtime::intake::DeadReason;
use time::OffsetDateTime;
use wire_contract::{DecodeError, UserCreated, decode_json};

use crate::references::NewReference;

const USER_CREATED: &str = "UserCreated";
const UNKNOWN_TYPE: DeadReason = DeadReason::UnknownType {
    expected: USER_CREATED,
};
/// Characters.
const MAX_USERNAME: usize = 255;
/// Characters: 64 of the local part, `@`, 255 of the domain (RFC 5321, 4.5.3.1).
const MAX_EMAIL: usize = 320;
/// Seconds since the epoch, the year 2100: what is beyond was not in seconds.
const TIMESTAMP_END: f64 = 4_102_444_800.0;

/// Reads a body. What it says of its type counts, not the AMQP property, which the requirement does not name.
pub fn read(body: &[u8]) -> Result<NewReference, DeadReason> {
    let event: UserCreated = decode_json(USER_CREATED, body).map_err(|error| blame(body, error))?;
    if event.event_type != USER_CREATED {
        return Err(UNKNOWN_TYPE);
    }
    check_text("username", &event.username, 1..=MAX_USERNAME)?;
    check_text("email", &event.email, 0..=MAX_EMAIL)?;
    Ok(NewReference {
        user_id: event.user_id,
        occurred_at: time_of(event.timestamp)?,
        username: event.username,
        email: event.email,
    })
}

/// An event of another type has other fields: its type is what is wrong with it.
fn blame(body: &[u8], error: DecodeError) -> DeadReason {
    #[derive(Deserialize)]
    struct Typed {
        event_type: String,
    }
    match serde_json::from_slice::<Typed>(body) {
        Ok(typed) if typed.event_type != USER_CREATED => UNKNOWN_TYPE,
        _ => DeadReason::Malformed(error),
    }
}

fn check_text(
    field: &'static str,
    text: &str,
    characters: std::ops::RangeInclusive<usize>,
) -> Result<(), DeadReason> {
    let invalid = |must| Err(DeadReason::InvalidField { field, must });
    // PostgreSQL's text cannot hold it.
    if text.contains('\0') {
        return invalid("must not contain the character NUL");
    }
    if !characters.contains(&text.chars().count()) {
        return invalid(match field {
            "username" => "must have 1 to 255 characters",
            _ => "must have at most 320 characters",
        });
    }
    Ok(())
}

/// Seconds since the epoch, to the microsecond that the database keeps.
fn time_of(seconds: f64) -> Result<OffsetDateTime, DeadReason> {
    let invalid = DeadReason::InvalidField {
        field: "timestamp",
        must: "must be seconds since the Unix epoch, before the year 2100",
    };
    // Also false for what is no number.
    if !(0.0..TIMESTAMP_END).contains(&seconds) {
        return Err(invalid);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the range above is far within 64 bits"
    )]
    let micros = (seconds * 1e6).round() as i64;
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(|_| invalid)
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
