//! Which users a list shows.

use sqlx::{Postgres, QueryBuilder};
use time::OffsetDateTime;

use super::UserError;

/// Follows every text that begins with the prefix it is put behind, but for names that nobody has: it is no character.
const AFTER_ALL: char = char::MAX;

/// `None` lets every user through.
#[derive(Debug, Clone, Default)]
pub struct UserFilter {
    /// The one of exactly this name.
    pub username: Option<String>,
    /// Those whose name begins so.
    pub username_prefix: Option<String>,
    /// Those that may send, or may not.
    pub is_active: Option<bool>,
    /// Those created at this time or later.
    pub created_after: Option<OffsetDateTime>,
    /// Those created before this time.
    pub created_before: Option<OffsetDateTime>,
}

impl UserFilter {
    /// Appends `AND …` for each that is given.
    pub(super) fn push_conditions(
        &self,
        query: &mut QueryBuilder<Postgres>,
    ) -> Result<(), UserError> {
        if let Some(name) = &self.username {
            query
                .push(" AND username = ")
                .push_bind(text("username", name)?);
        }
        if let Some(prefix) = &self.username_prefix {
            let prefix = text("username_prefix", prefix)?;
            // Compared byte by byte, as the index with text_pattern_ops is sorted.
            query.push(" AND username ~>=~ ").push_bind(prefix.clone());
            query
                .push(" AND username ~<~ ")
                .push_bind(format!("{prefix}{AFTER_ALL}"));
        }
        if let Some(is_active) = self.is_active {
            // Not a parameter: the partial index must be seen to fit.
            query.push(if is_active {
                " AND is_active"
            } else {
                " AND NOT is_active"
            });
        }
        if let Some(time) = self.created_after {
            query.push(" AND created_at >= ").push_bind(time);
        }
        if let Some(time) = self.created_before {
            query.push(" AND created_at < ").push_bind(time);
        }
        Ok(())
    }
}

/// PostgreSQL refuses a text with a zero byte.
fn text(field: &str, value: &str) -> Result<String, UserError> {
    if value.contains('\0') {
        return Err(UserError::Invalid {
            field: field.to_owned(),
            message: "must not contain control characters".to_owned(),
        });
    }
    Ok(value.to_owned())
}
