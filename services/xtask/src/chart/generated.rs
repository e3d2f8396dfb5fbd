//! The files that are made from the chart: they are committed, and a check fails when they differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::values::Values;
use super::{CHART, Checks, KUBERNETES};
use crate::cluster::tools;
use crate::dashboards;
use crate::process;

/// Rendered folders below `k8s/`, each by the `values.yaml` in it, and the chart's folders of templates that go there.
const RENDERED: [(&str, &[&str]); 2] = [
    ("base", &["server-a", "server-b", "user-service", "resync"]),
    ("overlays/development", &["rabbitmq", "postgresql"]),
];

/// Where dashboards and rules are, and below which folder of the chart they are copied: Helm reads no file outside of it.
const DASHBOARDS: &str = "observability/dashboards";
const RULES: &str = "observability/rules";
const COPIES: &str = "files";

/// Fails with the names of the files that are not what they would be made now.
pub fn check(checks: &Checks<'_>) -> Result<()> {
    let mut files = of_values(checks)?;
    files.extend(of_observability(checks)?);
    files.extend(rendered(checks)?);
    let mut stale = left_over(checks, &files)?;
    for (path, text) in files {
        if fs::read_to_string(&path).unwrap_or_default() != text {
            stale.push(path);
        }
    }
    let stale = stale.iter().map(|path| {
        let path = path.strip_prefix(&checks.root).unwrap_or(path);
        path.display().to_string()
    });
    let stale: Vec<String> = stale.collect();
    ensure!(
        stale.is_empty(),
        "not what the chart gives now; run `cargo xtask chart --write`: {}",
        stale.join(", ")
    );
    Ok(())
}

/// Writes all of them, the schema first: Helm renders by it.
pub fn write(checks: &Checks<'_>) -> Result<()> {
    for make in [of_values, of_observability, rendered] {
        for (path, text) in make(checks)? {
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    for path in left_over(checks, &of_observability(checks)?)? {
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Paths and texts of the dashboards, and of the chart's copies of dashboards and rules.
fn of_observability(checks: &Checks<'_>) -> Result<Vec<(PathBuf, String)>> {
    let copies = checks.root.join(CHART).join(COPIES);
    let mut files = Vec::new();
    for (name, text) in dashboards::files() {
        files.push((copies.join("dashboards").join(&name), text.clone()));
        files.push((checks.root.join(DASHBOARDS).join(name), text));
    }
    for entry in fs::read_dir(checks.root.join(RULES))? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "yaml") {
            let name = path.file_name().unwrap_or_default();
            files.push((copies.join("rules").join(name), read(&path)?));
        }
    }
    Ok(files)
}

/// Files in those folders that nothing makes any more.
fn left_over(checks: &Checks<'_>, files: &[(PathBuf, String)]) -> Result<Vec<PathBuf>> {
    let copies = checks.root.join(CHART).join(COPIES);
    let folders = [
        checks.root.join(DASHBOARDS),
        copies.join("dashboards"),
        copies.join("rules"),
    ];
    let mut found = Vec::new();
    for folder in folders {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_file() && files.iter().all(|(made, _)| *made != path) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Paths and texts of what is made from values.yaml.
fn of_values(checks: &Checks<'_>) -> Result<Vec<(PathBuf, String)>> {
    let chart = checks.root.join(CHART);
    let values = Values::read(&read(&chart.join("values.yaml"))?)?;
    let readme = chart.join("README.md");
    let text = values.readme(&read(&readme)?)?;
    Ok(vec![
        (chart.join("values.schema.json"), values.schema()?),
        (readme, text),
    ])
}

/// Paths and texts of what is rendered.
fn rendered(checks: &Checks<'_>) -> Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for (dir, folders) in RENDERED {
        files.extend(manifests(checks, dir, folders)?);
    }
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// One file for each folder of templates.
fn manifests(checks: &Checks<'_>, dir: &str, folders: &[&str]) -> Result<Vec<(PathBuf, String)>> {
    let dir = checks.root.join("k8s").join(dir);
    let mut command = Command::new(checks.program(tools::HELM4)?);
    command
        .current_dir(&checks.root)
        .args([
            "template",
            "identity-sync",
            CHART,
            "--namespace",
            "identity-sync",
            "--no-hooks",
        ])
        .args(["--kube-version", KUBERNETES[0], "-f"])
        .arg(dir.join("values.yaml"));
    let rendered = process::run(&mut command)?;
    let by_folder = by_folder(&rendered);
    let file = |folder: &&str| {
        let documents = by_folder
            .get(folder)
            .with_context(|| format!("nothing was rendered of templates/{folder}"))?;
        let head = "# Rendered from charts/identity-sync by `cargo xtask chart --write`.\n";
        Ok((
            dir.join(format!("{folder}.yaml")),
            format!("{head}{}", documents.join("---\n")),
        ))
    };
    folders.iter().map(file).collect()
}

/// The documents of each folder of templates, without what only Helm needs.
fn by_folder(rendered: &str) -> BTreeMap<&str, Vec<String>> {
    let mut folders = BTreeMap::<&str, Vec<String>>::new();
    for document in rendered.split("---\n") {
        let source = document
            .lines()
            .find_map(|line| line.strip_prefix("# Source: "));
        let Some(folder) = source.and_then(|path| path.split('/').nth(2)) else {
            continue;
        };
        let lines = document.lines().filter(|line| {
            let line = line.trim_start();
            ![
                "# Source: ",
                "helm.sh/chart: ",
                "app.kubernetes.io/managed-by: ",
            ]
            .iter()
            .any(|start| line.starts_with(start))
        });
        let lines: Vec<&str> = lines.collect();
        let text = format!("{}\n", lines.join("\n").trim_end());
        folders.entry(folder).or_default().push(text);
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_sorted_by_folder_and_lose_what_only_helm_needs() {
        let rendered = "---\n# Source: c/templates/a/x.yaml\nkind: X\n  helm.sh/chart: c-1\n---\n\
                        # Source: c/templates/b/y.yaml\nkind: Y\n---\n# Source: c/templates/a/z.yaml\nkind: Z\n";
        let folders = by_folder(rendered);
        assert_eq!(folders["a"], ["kind: X\n", "kind: Z\n"]);
        assert_eq!(folders["b"], ["kind: Y\n"]);
    }
}
