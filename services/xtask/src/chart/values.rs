//! The chart's values.yaml with its comments, and the files that are made from it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

/// The line of README.md after which everything is generated.
const MARKER: &str =
    "<!-- What follows is generated from values.yaml by `cargo xtask chart --write`. -->";

/// values.yaml, read twice: by a YAML parser for the defaults, by lines for the comments, which parsers drop.
#[derive(Debug)]
pub struct Values {
    defaults: Value,
    /// By the path of keys, joined by dots; in the file's order.
    keys: Vec<(String, Comment)>,
}

/// What is written above a key.
#[derive(Debug, Default, Clone)]
struct Comment {
    description: String,
    /// Of the `@schema` lines.
    schema: Map<String, Value>,
}

impl Values {
    /// Reads the text of values.yaml.
    pub fn read(text: &str) -> Result<Self> {
        let defaults = serde_saphyr::from_str(text).context("values.yaml is not YAML")?;
        let mut values = Self {
            defaults,
            keys: Vec::new(),
        };
        let (mut comment, mut path) = (Comment::default(), Vec::<(usize, String)>::new());
        for line in text.lines() {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            if let Some(said) = body.strip_prefix('#') {
                comment
                    .add(said.trim())
                    .with_context(|| format!("values.yaml: {line}"))?;
                continue;
            }
            let described = std::mem::take(&mut comment);
            let Some((key, _)) = body.split_once(':') else {
                continue;
            };
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key.to_owned()));
            let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
            // What a list's items hold is no key of the chart.
            if pointer(&values.defaults, &names).is_some() {
                values.keys.push((names.join("."), described));
            }
        }
        Ok(values)
    }

    /// values.schema.json: types and defaults from the values, the rest from the comments. A key that is not in
    /// values.yaml is refused, except below an empty map or where a comment says otherwise.
    pub fn schema(&self) -> Result<String> {
        let comments: BTreeMap<_, _> = self
            .keys
            .iter()
            .map(|(path, it)| (path.as_str(), it))
            .collect();
        let mut schema = node(&self.defaults, "", &comments);
        schema.insert(
            "$schema".to_owned(),
            json!("https://json-schema.org/draft/2020-12/schema"),
        );
        schema.insert("$defs".to_owned(), json!({"resources": resources()}));
        schema["properties"]["enabled"] = json!({
            "description": "For the `condition` of a chart that depends on this one; no template reads it.",
            "type": "boolean",
        });
        Ok(serde_json::to_string_pretty(&schema)? + "\n")
    }

    /// README.md with a new table behind the marker.
    pub fn readme(&self, old: &str) -> Result<String> {
        let (head, _) = old
            .split_once(MARKER)
            .with_context(|| format!("charts/identity-sync/README.md lacks the line {MARKER}"))?;
        let mut readme = format!("{head}{MARKER}\n");
        let (groups, single): (Vec<_>, Vec<_>) =
            self.sections().partition(|(_, default)| is_group(default));
        let single = single.into_iter().map(|(key, _)| key);
        writeln!(readme, "\n### General\n")?;
        self.table(&mut readme, single)?;
        for ((title, comment), _) in groups {
            writeln!(readme, "\n### `{title}`\n")?;
            if !comment.description.is_empty() {
                writeln!(readme, "{}\n", comment.description)?;
            }
            self.table(&mut readme, self.leaves(title))?;
        }
        Ok(readme)
    }

    fn table<'a>(
        &self,
        readme: &mut String,
        keys: impl Iterator<Item = &'a (String, Comment)>,
    ) -> Result<()> {
        readme.push_str("| key | default | |\n|---|---|---|\n");
        for (path, comment) in keys {
            let names: Vec<&str> = path.split('.').collect();
            let default = pointer(&self.defaults, &names).context("a key without a value")?;
            let description = comment.description.replace('|', "\\|");
            writeln!(readme, "| `{path}` | `{default}` | {description} |")?;
        }
        Ok(())
    }

    /// Top-level keys.
    fn sections(&self) -> impl Iterator<Item = (&(String, Comment), &Value)> {
        self.keys
            .iter()
            .filter_map(|key| Some((key, self.defaults.get(&key.0)?)))
    }

    /// The keys below a top-level key that are set one by one.
    fn leaves(&self, section: &str) -> impl Iterator<Item = &(String, Comment)> {
        self.keys.iter().filter(move |(path, comment)| {
            let names: Vec<&str> = path.split('.').collect();
            let group = pointer(&self.defaults, &names).is_some_and(is_group);
            // A map in one line is set as a whole, too.
            let has_keys = group && self.keys.iter().any(|(inner, _)| below(inner, path));
            let has_definition = comment.schema.contains_key("$ref");
            below(path, section) && (has_definition || (!has_keys && !self.is_in_definition(path)))
        })
    }

    /// Whether a key around it has its schema elsewhere, and is set as a whole.
    fn is_in_definition(&self, path: &str) -> bool {
        let mut definitions = self
            .keys
            .iter()
            .filter(|(_, it)| it.schema.contains_key("$ref"));
        definitions.any(|(outer, _)| below(path, outer))
    }
}

/// Whether one path of keys begins with another.
fn below(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.starts_with('.'))
}

impl Comment {
    fn add(&mut self, line: &str) -> Result<()> {
        if let Some(schema) = line.strip_prefix("@schema ") {
            let schema: Value = serde_saphyr::from_str(&format!("{{{schema}}}"))?;
            let schema = schema.as_object().context("not a map")?;
            self.schema.extend(schema.clone());
        } else {
            ensure!(!line.starts_with("@schema"), "a @schema line says nothing");
            if !self.description.is_empty() {
                self.description.push(' ');
            }
            self.description.push_str(line);
        }
        Ok(())
    }
}

fn pointer<'a>(value: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().try_fold(value, |value, name| value.get(*name))
}

/// A map with keys of its own.
fn is_group(value: &Value) -> bool {
    value.as_object().is_some_and(|map| !map.is_empty())
}

fn node(value: &Value, path: &str, comments: &BTreeMap<&str, &Comment>) -> Map<String, Value> {
    let comment = comments.get(path).copied().cloned().unwrap_or_default();
    let mut schema = Map::new();
    if !comment.description.is_empty() {
        schema.insert("description".to_owned(), json!(comment.description));
    }
    let fields = value.as_object().filter(|map| !map.is_empty());
    if let (Some(fields), false) = (fields, comment.schema.contains_key("$ref")) {
        let properties = fields.iter().map(|(name, value)| {
            let path = format!("{path}.{name}");
            let schema = node(value, path.trim_start_matches('.'), comments);
            (name.clone(), Value::Object(schema))
        });
        schema.insert("properties".to_owned(), properties.collect());
        schema.insert("additionalProperties".to_owned(), json!(false));
    } else {
        schema.insert("default".to_owned(), value.clone());
    }
    if !comment.schema.contains_key("$ref") {
        schema.insert("type".to_owned(), json!(type_of(value)));
    }
    schema.extend(comment.schema);
    schema
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A container's resources, as the API has them.
fn resources() -> Value {
    let quantities =
        json!({"type": "object", "additionalProperties": {"type": ["string", "number"]}});
    json!({
        "type": "object",
        "properties": {
            "requests": quantities,
            "limits": quantities,
            "claims": {"type": "array", "items": {"type": "object"}},
        },
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# The gateway.\nserver:\n  # How many.\n  # @schema minimum: 0\n  replicas: 2\n  \
                        # Anything.\n  # @schema additionalProperties: {type: string}\n  labels: {}\n  \
                        # Found by.\n  marks: {a: \"1\"}\n  peers:\n    \
                        - selector:\n        app: x\nname: \"\"\n";

    fn schema() -> Value {
        let text = Values::read(TEXT)
            .and_then(|it| it.schema())
            .expect("is good");
        serde_json::from_str(&text).expect("is JSON")
    }

    #[test]
    fn a_key_has_its_type_its_default_and_what_its_comment_says() {
        assert_eq!(
            schema()["properties"]["server"]["properties"]["replicas"],
            json!({"description": "How many.", "type": "integer", "default": 2, "minimum": 0})
        );
    }

    #[test]
    fn keys_that_are_not_there_are_refused_except_where_a_comment_allows_them() {
        let server = &schema()["properties"]["server"];
        assert_eq!(server["additionalProperties"], json!(false));
        let labels = &server["properties"]["labels"];
        assert_eq!(labels["additionalProperties"], json!({"type": "string"}));
    }

    #[test]
    fn what_the_items_of_a_list_hold_are_no_keys() {
        let values = Values::read(TEXT).expect("is good");
        let paths: Vec<_> = values.keys.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "server",
                "server.replicas",
                "server.labels",
                "server.marks",
                "server.peers",
                "name"
            ]
        );
    }

    #[test]
    fn the_table_has_each_key_with_its_default_and_keeps_what_is_above_the_marker() {
        let values = Values::read(TEXT).expect("is good");
        let readme = values
            .readme(&format!("# Head\n\n{MARKER}\nold"))
            .expect("has a marker");
        assert!(readme.starts_with("# Head\n"));
        assert!(readme.contains("| `server.replicas` | `2` | How many. |\n"));
        assert!(readme.contains("| `server.marks` | `{\"a\":\"1\"}` | Found by. |\n"));
        assert!(readme.contains("| `name` | `\"\"` |  |\n"));
        assert!(!readme.contains("old"));
    }
}
