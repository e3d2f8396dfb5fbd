//! A user's version as its entity tag, so that a change can be made to depend on it (RFC 9110, 8.8.3 and 13.1.1).

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, header};
use service_runtime::problem::Problem;

use super::error::ApiError;
use super::problems::INVALID_IF_MATCH;
use crate::users::{IfVersion, User};

/// The header `ETag` of a user.
pub fn etag(user: &User) -> [(HeaderName, String); 1] {
    [(header::ETAG, format!("\"{}\"", user.version))]
}

/// `If-Match`: the change is made only to one of these versions.
#[derive(Debug, PartialEq, Eq)]
pub struct IfMatch(pub IfVersion);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut versions = None;
        for value in parts.headers.get_all(header::IF_MATCH) {
            let text = value.to_str().map_err(|_| unreadable())?;
            match text.trim() {
                // Any user that is there, as without the header.
                "*" => {}
                list => versions.get_or_insert_with(Vec::new).extend(
                    tags(list)
                        .collect::<Result<Vec<_>, _>>()?
                        .into_iter()
                        .flatten(),
                ),
            }
        }
        Ok(Self(versions))
    }
}

/// The versions of a list of tags. A weak tag is no version: it never matches, and neither does one of somebody else.
fn tags(list: &str) -> impl Iterator<Item = Result<Option<i64>, Problem>> {
    list.split(',').map(|tag| {
        let opaque = tag.trim().strip_prefix("W/").unwrap_or(tag.trim());
        let quoted = opaque
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        let quoted = quoted.ok_or_else(unreadable)?;
        let weak = tag.trim().starts_with("W/");
        Ok(quoted.parse().ok().filter(|_| !weak))
    })
}

fn unreadable() -> Problem {
    Problem::of(
        &INVALID_IF_MATCH,
        "If-Match must be the ETag of the user as it was read, such as \"17\"",
    )
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    async fn parsed(values: &[&str]) -> Option<IfVersion> {
        let request = values.iter().fold(Request::builder(), |request, value| {
            request.header(header::IF_MATCH, *value)
        });
        let (mut parts, ()) = request.body(()).expect("a valid request").into_parts();
        let read = IfMatch::from_request_parts(&mut parts, &()).await;
        read.ok().map(|IfMatch(versions)| versions)
    }

    #[tokio::test]
    async fn without_the_header_or_with_a_star_any_version_will_do() {
        assert_eq!(parsed(&[]).await, Some(None));
        assert_eq!(parsed(&["*"]).await, Some(None));
    }

    #[tokio::test]
    async fn each_tag_of_a_list_is_a_version() {
        assert_eq!(parsed(&[r#""17""#]).await, Some(Some(vec![17])));
        assert_eq!(
            parsed(&[r#""17", "18""#, r#""19""#]).await,
            Some(Some(vec![17, 18, 19]))
        );
    }

    #[tokio::test]
    async fn weak_tags_and_those_of_others_match_nothing() {
        assert_eq!(parsed(&[r#"W/"17""#]).await, Some(Some(vec![])));
        assert_eq!(parsed(&[r#""abc""#]).await, Some(Some(vec![])));
    }

    #[tokio::test]
    async fn what_is_no_tag_is_refused() {
        for text in ["17", "\"17", "", "\"17\" \"18"] {
            assert_eq!(parsed(&[text]).await, None, "{text}");
        }
    }
}
