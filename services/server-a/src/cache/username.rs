//! Names of users, most of them without an allocation.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes that fit beside their count and the variant into the room of two pointers and a bit.
const INLINE: usize = 22;

/// The name of a user. Cheap to clone: a short one is copied, a long one is shared.
#[derive(Clone, PartialEq, Eq)]
pub struct Username(Repr);

#[derive(Clone, PartialEq, Eq)]
enum Repr {
    /// The bytes after the name are zero.
    Short {
        len: u8,
        bytes: [u8; INLINE],
    },
    Long(Arc<str>),
}

impl Username {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Made from a text, so it is one.
            Repr::Short { len, bytes } => {
                str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default()
            }
            Repr::Long(text) => text,
        }
    }

    /// Bytes of the text that lie outside of `self`.
    pub(super) fn heap_len(&self) -> Option<usize> {
        match &self.0 {
            Repr::Short { .. } => None,
            Repr::Long(text) => Some(text.len()),
        }
    }
}

impl From<&str> for Username {
    fn from(text: &str) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                Self(Repr::Short { len, bytes })
            }
            _ => Self(Repr::Long(text.into())),
        }
    }
}

impl Deref for Username {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_length_is_given_back_and_short_ones_need_no_heap() {
        for len in [0, 1, INLINE - 1, INLINE, INLINE + 1, 300] {
            let text = "n".repeat(len);
            let name = Username::from(text.as_str());
            assert_eq!(
                (name.as_str(), name.heap_len().is_some()),
                (text.as_str(), len > INLINE)
            );
        }
        // Four bytes a character: the limit counts bytes.
        let text = "𝒩".repeat(6);
        assert_eq!(Username::from(text.as_str()).as_str(), text);
        assert_eq!(size_of::<Username>(), 24);
    }
}
