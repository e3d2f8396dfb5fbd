//! `PROVIDERS_FILE`: which providers there are, and which numbers go to which. YAML, of which JSON is a part.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::http::{Fields, HttpProvider, Place, Settings, Statuses, Token};
use super::provider::{LogProvider, Provider};
use super::receipts::{Meaning, ReceiptRules};
use super::routing::{Route, Routes};
use crate::sms::codes::ErrorCode;

/// Bytes of the file at most.
const MAX_FILE: u64 = 1024 * 1024;
/// Longest `timeout_seconds`: a claim must outlive its hand-overs.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(20);
/// Most of `max_in_flight`.
const MAX_IN_FLIGHT: usize = 1024;

/// What the dispatcher and the receipts' endpoint work with.
#[derive(Debug)]
pub struct Providers {
    /// For the dispatcher.
    pub routes: Routes,
    /// By the provider's name: those that send delivery receipts.
    pub receipts: HashMap<String, ReceiptRules>,
    /// SMS that all of them take at once.
    pub max_in_flight: usize,
}

/// What is wrong with the file: `field` is a path such as `providers.acme.http.url`.
#[derive(Debug, thiserror::Error)]
#[error("PROVIDERS_FILE, {field}: {problem}")]
pub struct FileError {
    field: String,
    problem: String,
}

type Checked<T> = Result<T, FileError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    providers: BTreeMap<String, ProviderConfig>,
    routes: Vec<RouteConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProviderConfig {
    Log,
    Http(Box<HttpConfig>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpConfig {
    url: String,
    /// PEM file of authorities that its certificate may be signed by, besides the system's.
    ca_file: Option<PathBuf>,
    auth: Option<AuthConfig>,
    #[serde(default)]
    request: RequestConfig,
    #[serde(default)]
    idempotency: TokenConfig,
    /// Where an answer has the provider's id.
    message_id: Option<String>,
    #[serde(default)]
    statuses: StatusesConfig,
    #[serde(default = "default_timeout")]
    timeout_seconds: u64,
    #[serde(default = "default_in_flight")]
    max_in_flight: usize,
    receipts: Option<ReceiptsConfig>,
}

fn default_timeout() -> u64 {
    5
}

fn default_in_flight() -> usize {
    64
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SecretConfig {
    File(PathBuf),
    Env(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuthConfig {
    Bearer(SecretConfig),
    Basic(BasicConfig),
    Header(HeaderConfig),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicConfig {
    username: String,
    password: SecretConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderConfig {
    name: String,
    value: SecretConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequestConfig {
    to: String,
    from: String,
    body: String,
    encoding: Option<String>,
    segments: Option<String>,
    constant: Map<String, Value>,
}

impl Default for RequestConfig {
    fn default() -> Self {
        Self {
            to: "to".to_owned(),
            from: "from".to_owned(),
            body: "body".to_owned(),
            encoding: None,
            segments: None,
            constant: Map::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum TokenConfig {
    Header(String),
    Field(String),
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self::Header("Idempotency-Key".to_owned())
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct StatusesConfig {
    retryable: Vec<u16>,
    permanent: Vec<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiptsConfig {
    auth: ReceiptAuthConfig,
    message_id: String,
    status: String,
    statuses: BTreeMap<String, MeaningConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReceiptAuthConfig {
    Bearer(SecretConfig),
    Header(HeaderConfig),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeaningConfig {
    status: ReceiptStatus,
    error_code: Option<ErrorCode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReceiptStatus {
    Delivered,
    Undelivered,
    Failed,
    Ignore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteConfig {
    prefix: String,
    providers: Vec<String>,
    #[serde(default)]
    fall_over_when_refused: bool,
}

impl Providers {
    /// Everything to the log, where there is no file.
    #[must_use]
    pub fn log() -> Self {
        Self {
            routes: Routes::log(),
            receipts: HashMap::new(),
            max_in_flight: 0,
        }
    }

    /// Reads the file and the secrets that it refers to.
    ///
    /// # Errors
    /// One that names the field that is wrong.
    pub fn from_file(path: &Path) -> Checked<Self> {
        let unreadable = |error: std::io::Error| {
            wrong(
                &path.display().to_string(),
                &format!("cannot be read: {error}"),
            )
        };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_FILE {
            return Err(wrong(&path.display().to_string(), "is larger than 1 MiB"));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    fn parse(text: &str) -> Checked<Self> {
        let document: Value = serde_saphyr::from_str(text).map_err(|error| no_yaml(&error))?;
        let file: File = serde_path_to_error::deserialize(document)
            .map_err(|error| wrong(&error.path().to_string(), unfit(&error.inner().to_string())))?;
        let (mut providers, mut receipts) = (BTreeMap::new(), HashMap::new());
        let mut max_in_flight = 0;
        for (name, config) in file.providers {
            let at = format!("providers.{name}");
            check(
                is_name(&name),
                &at,
                "a name has 1 to 64 of a-z, 0-9, `-` and `_`",
            )?;
            // Metrics, and what the row says of an SMS that no provider was asked for.
            check(name != "none", &at, "this name has a meaning of its own")?;
            let provider: Arc<dyn Provider> = match config {
                ProviderConfig::Log => {
                    check(
                        name == LogProvider::NAME,
                        &at,
                        "a provider `log` is named `log`",
                    )?;
                    Arc::new(LogProvider)
                }
                ProviderConfig::Http(config) => {
                    let at = format!("{at}.http");
                    if let Some(config) = &config.receipts {
                        let rules = receipt_rules(config, &format!("{at}.receipts"))?;
                        receipts.insert(name.clone(), rules);
                    }
                    max_in_flight += config.max_in_flight;
                    Arc::new(http(&name, &config, &at)?)
                }
            };
            providers.insert(name, provider);
        }
        let routes = routes(file.routes, &providers)?;
        Ok(Self {
            routes,
            receipts,
            max_in_flight,
        })
    }
}

fn routes(
    configs: Vec<RouteConfig>,
    providers: &BTreeMap<String, Arc<dyn Provider>>,
) -> Checked<Routes> {
    check(
        !configs.is_empty(),
        "routes",
        "there is none: nothing could be sent",
    )?;
    let mut routes: Vec<Route> = Vec::with_capacity(configs.len());
    for (index, config) in configs.into_iter().enumerate() {
        let at = format!("routes[{index}]");
        let digits = config.prefix.strip_prefix('+').unwrap_or("");
        let plain = config.prefix.is_empty()
            || (!digits.is_empty()
                && digits.len() <= 15
                && digits.bytes().all(|it| it.is_ascii_digit()));
        let field = format!("{at}.prefix");
        check(plain, &field, "must be empty, or a + and 1 to 15 digits")?;
        let twice = routes.iter().any(|route| route.prefix == config.prefix);
        check(!twice, &field, "there is another route with this prefix")?;
        let field = format!("{at}.providers");
        check(
            !config.providers.is_empty(),
            &field,
            "must name one at least",
        )?;
        let named = config.providers.iter().map(|name| {
            let found = providers.get(name).cloned();
            found.ok_or_else(|| wrong(&field, &format!("there is no provider `{name}`")))
        });
        routes.push(Route {
            providers: named.collect::<Checked<_>>()?,
            prefix: config.prefix,
            fall_over_when_refused: config.fall_over_when_refused,
        });
    }
    Ok(Routes::new(routes))
}

fn http(name: &str, config: &HttpConfig, at: &str) -> Checked<HttpProvider> {
    let field = |name: &str| format!("{at}.{name}");
    let url = Url::parse(&config.url).ok();
    let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
    let url = url.ok_or_else(|| wrong(&field("url"), "must be a URL, http:// or https://"))?;
    let bare = url.username().is_empty() && url.password().is_none();
    check(
        bare,
        &field("url"),
        "must hold no password: it belongs into `auth`",
    )?;
    let timeout = Duration::from_secs(config.timeout_seconds);
    let sane = timeout > Duration::ZERO && timeout <= MAX_TIMEOUT;
    check(sane, &field("timeout_seconds"), "must be from 1 to 20")?;
    let sane = (1..=MAX_IN_FLIGHT).contains(&config.max_in_flight);
    check(sane, &field("max_in_flight"), "must be from 1 to 1024")?;
    let fields = fields(&config.request, &field("request"))?;
    let token = token(&config.idempotency, &fields, &field("idempotency"))?;
    let message_id = config.message_id.as_deref();
    let findable = message_id.is_some() || config.receipts.is_none();
    check(
        findable,
        &field("message_id"),
        "is needed: receipts are found by it",
    )?;
    let settings = Settings {
        name: name.to_owned(),
        url,
        authorities: authorities(config.ca_file.as_deref(), &field("ca_file"))?,
        auth: auth(config.auth.as_ref(), &field("auth"))?,
        fields,
        token,
        message_id: message_id
            .map(|text| place(text, &field("message_id")))
            .transpose()?,
        statuses: statuses(&config.statuses, &field("statuses"))?,
        timeout,
        max_in_flight: config.max_in_flight,
    };
    HttpProvider::new(settings).map_err(|error| wrong(at, &error.to_string()))
}

fn authorities(file: Option<&Path>, at: &str) -> Checked<Vec<Certificate>> {
    let Some(file) = file else {
        return Ok(Vec::new());
    };
    let pem = std::fs::read(file)
        .map_err(|error| wrong(at, &format!("cannot read {}: {error}", file.display())))?;
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    check(!found.is_empty(), at, "holds no certificate in PEM")?;
    Ok(found)
}

fn fields(config: &RequestConfig, at: &str) -> Checked<Fields> {
    let constant = Value::Object(config.constant.clone());
    let fitting = |text: &str, name: &str| {
        let field = format!("{at}.{name}");
        let place = place(text, &field)?;
        check(
            place.fits(&constant),
            &field,
            "`constant` leaves no room there",
        )?;
        Ok(place)
    };
    let optional = |text: Option<&String>, name: &str| text.map(|it| fitting(it, name)).transpose();
    Ok(Fields {
        to: fitting(&config.to, "to")?,
        from: fitting(&config.from, "from")?,
        body: fitting(&config.body, "body")?,
        encoding: optional(config.encoding.as_ref(), "encoding")?,
        segments: optional(config.segments.as_ref(), "segments")?,
        constant,
    })
}

fn token(config: &TokenConfig, fields: &Fields, at: &str) -> Checked<Token> {
    match config {
        TokenConfig::Header(name) => Ok(Token::Header(header_name(name, &format!("{at}.header"))?)),
        TokenConfig::Field(text) => {
            let field = format!("{at}.field");
            let place = place(text, &field)?;
            check(
                place.fits(&fields.constant),
                &field,
                "`constant` leaves no room there",
            )?;
            Ok(Token::Field(place))
        }
    }
}

fn statuses(config: &StatusesConfig, at: &str) -> Checked<Statuses> {
    for (name, list) in [
        ("retryable", &config.retryable),
        ("permanent", &config.permanent),
    ] {
        let sane = list.iter().all(|status| (100..600).contains(status));
        check(sane, &format!("{at}.{name}"), "must hold HTTP statuses")?;
    }
    let both = config
        .retryable
        .iter()
        .any(|it| config.permanent.contains(it));
    check(!both, at, "a status is either retryable or permanent")?;
    Ok(Statuses {
        retryable: config.retryable.clone(),
        permanent: config.permanent.clone(),
    })
}

fn auth(config: Option<&AuthConfig>, at: &str) -> Checked<HeaderMap> {
    let mut headers = HeaderMap::new();
    let (name, value, field) = match config {
        None => return Ok(headers),
        Some(AuthConfig::Bearer(secret)) => {
            let field = format!("{at}.bearer");
            let value = format!("Bearer {}", read(secret, &field)?.expose_secret());
            (AUTHORIZATION, value, field)
        }
        Some(AuthConfig::Basic(basic)) => {
            let field = format!("{at}.basic.password");
            let password = read(&basic.password, &field)?;
            let login = format!("{}:{}", basic.username, password.expose_secret());
            (
                AUTHORIZATION,
                format!("Basic {}", STANDARD.encode(login)),
                field,
            )
        }
        Some(AuthConfig::Header(header)) => {
            let field = format!("{at}.header.value");
            let value = read(&header.value, &field)?.expose_secret().to_owned();
            (
                header_name(&header.name, &format!("{at}.header.name"))?,
                value,
                field,
            )
        }
    };
    let value = HeaderValue::from_str(&value);
    let mut value = value.map_err(|_| wrong(&field, "cannot stand in a header"))?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}

fn receipt_rules(config: &ReceiptsConfig, at: &str) -> Checked<ReceiptRules> {
    let (header, secret) = match &config.auth {
        ReceiptAuthConfig::Bearer(secret) => (None, read(secret, &format!("{at}.auth.bearer"))?),
        ReceiptAuthConfig::Header(header) => {
            let name = header_name(&header.name, &format!("{at}.auth.header.name"))?;
            (
                Some(name),
                read(&header.value, &format!("{at}.auth.header.value"))?,
            )
        }
    };
    let field = format!("{at}.statuses");
    check(
        !config.statuses.is_empty(),
        &field,
        "must say what the provider's statuses mean",
    )?;
    let meanings = config.statuses.iter().map(|(status, meaning)| {
        let meaning = meaning_of(meaning, &format!("{field}.{status}"))?;
        Ok((status.clone(), meaning))
    });
    Ok(ReceiptRules::new(
        header,
        &secret,
        place(&config.message_id, &format!("{at}.message_id"))?,
        place(&config.status, &format!("{at}.status"))?,
        meanings.collect::<Checked<_>>()?,
    ))
}

fn meaning_of(config: &MeaningConfig, at: &str) -> Checked<Meaning> {
    let field = format!("{at}.error_code");
    let known = config.error_code.is_none_or(ErrorCode::is_of_receipts);
    check(known, &field, "is not one that a receipt may tell")?;
    let reason = config.error_code;
    let or_any = reason.unwrap_or(ErrorCode::DeliveryFailed);
    match config.status {
        ReceiptStatus::Undelivered => Ok(Meaning::Undelivered(or_any)),
        ReceiptStatus::Failed => Ok(Meaning::Failed(or_any)),
        ReceiptStatus::Delivered | ReceiptStatus::Ignore if reason.is_some() => {
            Err(wrong(&field, "goes with undelivered and failed only"))
        }
        ReceiptStatus::Delivered => Ok(Meaning::Delivered),
        ReceiptStatus::Ignore => Ok(Meaning::Ignored),
    }
}

/// The error tells where the secret was looked for, and not what was found.
fn read(secret: &SecretConfig, at: &str) -> Checked<SecretString> {
    let text = match secret {
        SecretConfig::File(path) => std::fs::read_to_string(path)
            .map_err(|error| wrong(at, &format!("cannot read {}: {error}", path.display())))?,
        SecretConfig::Env(name) => std::env::var(name)
            .map_err(|_| wrong(at, &format!("the variable {name} is not set")))?,
    };
    // Files end with a newline that nobody means.
    let text = text.trim();
    check(!text.is_empty(), at, "the secret is empty")?;
    Ok(text.to_owned().into())
}

fn place(text: &str, at: &str) -> Checked<Place> {
    Place::parse(text).ok_or_else(|| {
        wrong(
            at,
            "must be the name of a field, or a JSON pointer like /data/id",
        )
    })
}

fn header_name(text: &str, at: &str) -> Checked<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| wrong(at, "is not the name of a header"))
}

fn is_name(name: &str) -> bool {
    let known = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=64).contains(&name.len()) && name.bytes().all(known)
}

fn check(good: bool, field: &str, problem: &str) -> Checked<()> {
    if good {
        Ok(())
    } else {
        Err(wrong(field, problem))
    }
}

/// Where it is wrong, and nothing of what is there: it may be a secret.
fn no_yaml(error: &serde_saphyr::Error) -> FileError {
    let place = error.location().map_or_else(
        || "the whole".to_owned(),
        |at| format!("line {}, column {}", at.line(), at.column()),
    );
    wrong(&place, "is not YAML or JSON")
}

/// What is wrong with a value, without serde's texts, which quote it: a secret in place of `{file: …}` would be logged.
fn unfit(text: &str) -> &str {
    // Of our own names only.
    if text.starts_with("missing field `") {
        return text;
    }
    "is not known here, or is of another kind than expected (a secret is {file: path} or {env: NAME})"
}

fn wrong(field: &str, problem: &str) -> FileError {
    FileError {
        field: field.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
#[path = "providers_tests.rs"]
mod tests;
