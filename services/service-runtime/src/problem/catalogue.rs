//! What kinds of problems there are: one place for the answers, the OpenAPI document and the page that lists them.

use std::fmt::Write as _;

use axum::http::StatusCode;

/// Path of the page that lists the problems of a service.
pub const PAGE: &str = "/errors";

/// A kind of problem.
#[derive(Debug, PartialEq, Eq)]
pub struct ProblemType {
    /// Stable, for programs: letters of the alphabet and `_`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// What it is, the same each time.
    pub title: &'static str,
    /// Whether the same request may succeed later.
    pub retry: bool,
    /// What its receiver should know and do, in sentences.
    pub help: &'static str,
}

impl ProblemType {
    /// The member `type` of the answer (RFC 9457, 3.1.1): a reference to the page, relative to the server that answered.
    ///
    /// It is no absolute URI because there is no domain that every installation has, and no `urn:` because nobody could
    /// follow that.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("{PAGE}/{}", self.code)
    }

    fn tried_again(&self) -> &'static str {
        if self.retry { "yes" } else { "no" }
    }
}

/// The credentials do not let the caller in.
pub static UNAUTHORIZED: ProblemType = ProblemType {
    code: "unauthorized",
    status: StatusCode::UNAUTHORIZED,
    title: "Not authenticated",
    retry: false,
    help: "The key or token is missing, unknown, revoked or expired.",
};

/// One field of the request is not acceptable.
pub static INVALID_FIELD: ProblemType = ProblemType {
    code: "invalid_field",
    status: StatusCode::UNPROCESSABLE_ENTITY,
    title: "A field is not valid",
    retry: false,
    help: "`field` names the first field, parameter or header that is not valid, and `detail` says what it must be.",
};

/// No route.
pub static NOT_FOUND: ProblemType = ProblemType {
    code: "not_found",
    status: StatusCode::NOT_FOUND,
    title: "Nothing is at this path",
    retry: false,
    help: "The path is wrong; `/openapi.json` lists those that there are.",
};

/// No such method of the route.
pub static METHOD_NOT_ALLOWED: ProblemType = ProblemType {
    code: "method_not_allowed",
    status: StatusCode::METHOD_NOT_ALLOWED,
    title: "The path does not take this method",
    retry: false,
    help: "The header `Allow` lists the methods that the path takes.",
};

/// A fault of the server.
pub static INTERNAL: ProblemType = ProblemType {
    code: "internal",
    status: StatusCode::INTERNAL_SERVER_ERROR,
    title: "The server failed",
    retry: true,
    help: "A fault of the server, whose log says what it was. Try again later.",
};

/// The database is away.
pub static DATABASE_UNAVAILABLE: ProblemType = ProblemType {
    code: "database_unavailable",
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The database is not available",
    retry: true,
    help: "It is away, starting, or at its limits. Try again after `Retry-After`.",
};

/// The catalogue in Markdown, by status and code.
#[must_use]
pub fn markdown_page(service: &str, types: &[&ProblemType]) -> String {
    let mut page = format!(
        "# Errors of {service}\n\n\
         Every error is `application/problem+json` (RFC 9457). `type` is `{PAGE}/<code>`, a path on the server that answered;\n\
         `code` is the same word, and stable: programs should go by it. `retry` says whether the same request may succeed later;\n\
         where the answer has the header `Retry-After`, not before so many seconds. `field` names the field at fault where one\n\
         is, and `detail` says in words what is wrong.\n\n\
         | status | code | title | retry | what to do |\n|---|---|---|---|---|\n"
    );
    for kind in sorted(types) {
        // Writing to a text does not fail.
        let _ = writeln!(
            page,
            "| {} | `{}` | {} | {} | {} |",
            kind.status.as_u16(),
            kind.code,
            kind.title,
            kind.tried_again(),
            kind.help
        );
    }
    page
}

/// The same for a browser, each kind with its code as an anchor. The texts are our own and hold nothing to escape but
/// what [`escaped`] does.
#[must_use]
pub fn html_page(service: &str, types: &[&ProblemType]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Errors of {service}</title>\n\
         <h1>Errors of {service}</h1>\n<p>Every error is <code>application/problem+json</code> (RFC 9457). Programs should go \
         by <code>code</code>; <code>retry</code> says whether the same request may succeed later, and the header \
         <code>Retry-After</code> after how many seconds.</p>\n"
    );
    for kind in sorted(types) {
        let _ = writeln!(
            page,
            "<h2 id=\"{code}\"><code>{code}</code></h2>\n<p>{status}: {title}. Retry: {retry}.</p>\n<p>{help}</p>",
            code = kind.code,
            status = kind.status.as_u16(),
            title = escaped(kind.title),
            retry = kind.tried_again(),
            help = escaped(kind.help),
        );
    }
    page + "</html>\n"
}

fn sorted<'a>(types: &[&'a ProblemType]) -> Vec<&'a ProblemType> {
    let mut sorted = types.to_vec();
    sorted.sort_by_key(|kind| (kind.status.as_u16(), kind.code));
    sorted
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    // What stands between backticks is code.
    let mut parts = text.split('`');
    let mut html = parts.next().unwrap_or_default().to_owned();
    for (number, part) in parts.enumerate() {
        html += if number % 2 == 0 { "<code>" } else { "</code>" };
        html += part;
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_each_kind_once_in_the_order_of_the_statuses() {
        let types = [&INTERNAL, &UNAUTHORIZED, &NOT_FOUND];
        let page = markdown_page("a service", &types);
        let codes: Vec<_> = page
            .lines()
            .filter_map(|line| {
                line.split('`')
                    .nth(1)
                    .filter(|_| line.starts_with("| ") && line.contains("| `"))
            })
            .collect();
        assert_eq!(codes, ["unauthorized", "not_found", "internal"]);
        let page = html_page("a service", &types);
        assert!(page.contains("<h2 id=\"not_found\">"), "{page}");
        assert!(page.contains("<code>/openapi.json</code>"), "{page}");
    }
}
