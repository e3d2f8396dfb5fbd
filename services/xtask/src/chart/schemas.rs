//! JSON schemas of Kubernetes' objects for kubeconform, from the OpenAPI documents that ship in Go modules: the places
//! where kubeconform would find some are not reachable from everywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value, json};

use crate::cluster::tools;

/// Modules whose definitions of custom kinds are used.
const GATEWAY_API: &str = "sigs.k8s.io/gateway-api@v1.4.0";
const HTTP_ROUTE: &str = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml";
const PROMETHEUS_OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
const MONITORING: [&str; 3] = [
    "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
];
/// Of the cache; changes with the modules above.
const CUSTOM: &str = "schemas-gateway-api-1.4.0-prometheus-operator-0.85.0";
/// Said to be a string only, there.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// The directory with the schemas of a Kubernetes version, made on first use. A field that the API does not have is an
/// error by them.
pub fn ensure(version: &str) -> Result<PathBuf> {
    made(&format!("schemas-{version}"), |into| {
        let kubernetes = module(&format!("k8s.io/kubernetes@v{version}"))?;
        write_kinds(&kubernetes.join("api/openapi-spec/swagger.json"), into)
    })
}

/// The directory with those of custom kinds.
pub fn ensure_custom() -> Result<PathBuf> {
    made(CUSTOM, |into| {
        write_custom_kind(&module(GATEWAY_API)?.join(HTTP_ROUTE), into)?;
        let operator = module(PROMETHEUS_OPERATOR)?;
        for definition in MONITORING {
            write_custom_kind(&operator.join(definition), into)?;
        }
        Ok(())
    })
}

/// A directory of the cache, which is made unless it is there.
fn made(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = tools::cache_dir()?.join(name);
    let _entry = tools::lock_entry(&dir)?;
    if dir.exists() {
        return Ok(dir);
    }
    println!("Making {name} of Kubernetes' objects, once …");
    let partial = tools::partial(&dir);
    fs::create_dir_all(&partial).with_context(|| format!("creating {}", partial.display()))?;
    make(&partial)?;
    fs::rename(&partial, &dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir)
}

/// Where Go keeps a module's files.
fn module(name: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", name])
        .output()
        .context("Go is not installed; the schemas of Kubernetes are taken from its Go module")?;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    ensure!(
        output.status.success(),
        "go mod download {name}: {}{}",
        said["Error"].as_str().unwrap_or_default(),
        String::from_utf8_lossy(&output.stderr)
    );
    let dir = said["Dir"]
        .as_str()
        .context("go mod download names no directory")?;
    Ok(dir.into())
}

fn write_kinds(swagger: &Path, into: &Path) -> Result<()> {
    let text = fs::read(swagger).with_context(|| format!("reading {}", swagger.display()))?;
    let mut document: Value = serde_json::from_slice(&text)?;
    let definitions = document["definitions"].take();
    let mut definitions: Map<String, Value> = serde_json::from_value(definitions)?;
    let mut kinds = BTreeMap::new();
    for (name, definition) in &definitions {
        let kind = &definition["x-kubernetes-group-version-kind"];
        // Several: what every kind shares, such as DeleteOptions.
        if let Some([kind]) = kind.as_array().map(Vec::as_slice) {
            kinds.insert(name.clone(), kind.clone());
        }
    }
    definitions.values_mut().for_each(tighten);
    definitions.insert(QUANTITY.to_owned(), json!({"type": ["string", "number"]}));
    for (name, kind) in kinds {
        let part = |field: &str| kind[field].as_str().unwrap_or_default();
        let mut used = Map::new();
        collect(&name, &definitions, &mut used);
        let schema = json!({"$ref": format!("#/definitions/{name}"), "definitions": used});
        write(into, part("kind"), part("group"), part("version"), &schema)?;
    }
    Ok(())
}

fn write_custom_kind(definition: &Path, into: &Path) -> Result<()> {
    let text = fs::read_to_string(definition)
        .with_context(|| format!("reading {}", definition.display()))?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text)?;
    for spec in documents
        .iter()
        .map(|it| &it["spec"])
        .filter(|it| it.is_object())
    {
        for version in spec["versions"].as_array().into_iter().flatten() {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            tighten(&mut schema);
            let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (kind, group) = (part(&spec["names"]["kind"]), part(&spec["group"]));
            write(into, &kind, &group, &part(&version["name"]), &schema)?;
        }
    }
    Ok(())
}

/// Under the name by which kubeconform asks: `networkpolicy-networking-v1.json`, `pod-v1.json`.
fn write(into: &Path, kind: &str, group: &str, version: &str, schema: &Value) -> Result<()> {
    let group = group.split('.').next().filter(|it| !it.is_empty());
    let parts = [Some(kind), group, Some(version)];
    let name: Vec<&str> = parts.into_iter().flatten().collect();
    let path = into.join(format!("{}.json", name.join("-").to_lowercase()));
    fs::write(&path, schema.to_string()).with_context(|| format!("writing {}", path.display()))
}

/// Refuses fields that are not named, and says what OpenAPI says by `format`.
fn tighten(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("format") == Some(&json!("int-or-string")) {
                fields.insert("type".to_owned(), json!(["string", "integer"]));
            }
            let is_object = fields.get("properties").is_some_and(Value::is_object)
                && fields.get("type") == Some(&json!("object"));
            if is_object && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
            fields.values_mut().for_each(tighten);
        }
        Value::Array(items) => items.iter_mut().for_each(tighten),
        _ => {}
    }
}

/// A definition and all that it refers to.
fn collect(name: &str, all: &Map<String, Value>, used: &mut Map<String, Value>) {
    let Some(definition) = all.get(name).filter(|_| !used.contains_key(name)) else {
        return;
    };
    used.insert(name.to_owned(), definition.clone());
    for name in references(definition) {
        collect(name, all, used);
    }
}

fn references(schema: &Value) -> Vec<&str> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            let own = own.and_then(|it| it.strip_prefix("#/definitions/"));
            own.into_iter()
                .chain(fields.values().flat_map(references))
                .collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
