//! Why an SMS is where it is: the codes that are stored with it and shown to its owner.

use std::fmt;

use serde::Deserialize;

/// A stable code; README.md explains each, which a test holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Rejected: the user's `daily_quota` of its UTC day of submission was used up.
    QuotaExceeded,
    /// Rejected: the user was deleted before the hand-over.
    UserDeleted,
    /// Rejected: the user was deactivated before the hand-over.
    UserInactive,
    /// Expired: its validity ended before a provider took it.
    ValidityExpired,
    /// Failed: no route leads to the recipient's number.
    NoRoute,
    /// The provider did not answer in time; it may have taken the SMS.
    ProviderTimeout,
    /// The provider could not be reached, or broke off; it may have taken the SMS.
    ProviderUnreachable,
    /// The provider asks for fewer requests (429).
    ProviderBusy,
    /// The provider has trouble of its own (408, 5xx).
    ProviderUnavailable,
    /// The provider does not let us in (401, 403, 407).
    ProviderUnauthorized,
    /// Failed: the provider refused the SMS.
    ProviderRefused,
    /// Reported by the provider: nobody has the number.
    UnknownNumber,
    /// Reported by the provider: the handset was off or out of reach for too long.
    AbsentSubscriber,
    /// Reported by the provider: the recipient or its network bars the SMS.
    Blocked,
    /// Reported by the provider: the text or the sender is not allowed.
    ContentRefused,
    /// Reported by the provider: it gave up when the validity ended.
    DeliveryExpired,
    /// Reported by the provider: not delivered, for another reason or for none given.
    DeliveryFailed,
}

impl ErrorCode {
    /// All, in the order of the way.
    pub const ALL: [Self; 17] = [
        Self::QuotaExceeded,
        Self::UserDeleted,
        Self::UserInactive,
        Self::ValidityExpired,
        Self::NoRoute,
        Self::ProviderTimeout,
        Self::ProviderUnreachable,
        Self::ProviderBusy,
        Self::ProviderUnavailable,
        Self::ProviderUnauthorized,
        Self::ProviderRefused,
        Self::UnknownNumber,
        Self::AbsentSubscriber,
        Self::Blocked,
        Self::ContentRefused,
        Self::DeliveryExpired,
        Self::DeliveryFailed,
    ];

    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QuotaExceeded => "quota_exceeded",
            Self::UserDeleted => "user_deleted",
            Self::UserInactive => "user_inactive",
            Self::ValidityExpired => "validity_expired",
            Self::NoRoute => "no_route",
            Self::ProviderTimeout => "provider_timeout",
            Self::ProviderUnreachable => "provider_unreachable",
            Self::ProviderBusy => "provider_busy",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::ProviderUnauthorized => "provider_unauthorized",
            Self::ProviderRefused => "provider_refused",
            Self::UnknownNumber => "unknown_number",
            Self::AbsentSubscriber => "absent_subscriber",
            Self::Blocked => "blocked",
            Self::ContentRefused => "content_refused",
            Self::DeliveryExpired => "delivery_expired",
            Self::DeliveryFailed => "delivery_failed",
        }
    }

    /// Whether the provider may have taken the SMS all the same: another try may be a duplicate where it ignores the token.
    #[must_use]
    pub fn is_ambiguous(self) -> bool {
        // A proxy in front of a gateway answers 502 and 504 when it does not know either.
        matches!(
            self,
            Self::ProviderTimeout | Self::ProviderUnreachable | Self::ProviderUnavailable
        )
    }

    /// Whether a provider's delivery receipt may say so.
    #[must_use]
    pub fn is_of_receipts(self) -> bool {
        matches!(
            self,
            Self::UnknownNumber
                | Self::AbsentSubscriber
                | Self::Blocked
                | Self::ContentRefused
                | Self::DeliveryExpired
                | Self::DeliveryFailed
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const README: &str = include_str!("../../../../README.md");

    #[test]
    fn the_readme_explains_each_code_and_no_other() {
        let (_, after) = README
            .split_once("| `error_code` |")
            .expect("README.md has the table of error codes");
        let rows = after
            .lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'));
        let listed: BTreeSet<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let known: BTreeSet<&str> = ErrorCode::ALL.into_iter().map(ErrorCode::as_str).collect();
        assert_eq!(listed, known);
    }

    #[test]
    fn a_code_is_read_as_it_is_written() {
        for code in ErrorCode::ALL {
            let read: ErrorCode = serde_json::from_value(code.as_str().into()).expect("a code");
            assert_eq!(read, code);
        }
    }
}
