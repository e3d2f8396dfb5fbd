//! Rules that hold for whatever the chart renders, by whichever values.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

/// Helm's default for `--timeout`, in seconds.
const HELM_TIMEOUT: u64 = 300;

/// Fails with everything that breaks a rule.
pub fn check(documents: &[Value]) -> Result<()> {
    let mut faults = BTreeSet::new();
    for document in documents {
        let name = format!(
            "{} {}",
            text(&document["kind"]),
            text(&document["metadata"]["name"])
        );
        let mut found = Vec::new();
        if let Some(pod) = pod(document) {
            check_pod(document, pod, &mut found);
        }
        match text(&document["kind"]) {
            "Service" | "PodDisruptionBudget" | "NetworkPolicy" => {
                check_selector(document, documents, &mut found);
            }
            "Job" => check_hook(document, &mut found),
            _ => {}
        }
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    check_names(documents, &mut faults);
    let faults: Vec<String> = faults.into_iter().collect();
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

/// The pod that an object makes: labels and spec are in it.
fn pod(document: &Value) -> Option<&Value> {
    match text(&document["kind"]) {
        "Pod" => Some(document),
        "Deployment" | "StatefulSet" | "Job" => Some(&document["spec"]["template"]),
        "CronJob" => Some(&document["spec"]["jobTemplate"]["spec"]["template"]),
        _ => None,
    }
}

/// Pod Security `restricted`, and what we ask for besides.
fn check_pod(document: &Value, pod: &Value, faults: &mut Vec<String>) {
    let spec = &pod["spec"];
    let security = &spec["securityContext"];
    let mut must = |holds: bool, rule: String| {
        if !holds {
            faults.push(rule);
        }
    };
    must(
        security["runAsNonRoot"] == json!(true),
        "must set runAsNonRoot".to_owned(),
    );
    must(
        security["runAsUser"].as_u64() > Some(0),
        "must name a user by number".to_owned(),
    );
    let profile = &security["seccompProfile"]["type"];
    must(
        profile == "RuntimeDefault",
        "must have the seccomp profile RuntimeDefault".to_owned(),
    );
    let is_resync = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "resync";
    let token = spec["automountServiceAccountToken"] == json!(true);
    must(token == is_resync, "only resync has a token".to_owned());
    must(
        spec["enableServiceLinks"] == json!(false),
        "must not have service links".to_owned(),
    );
    let long = ["Deployment", "StatefulSet"].contains(&text(&document["kind"]));
    for container in items(&spec["initContainers"]).chain(items(&spec["containers"])) {
        let name = text(&container["name"]);
        let security = &container["securityContext"];
        must(
            security["allowPrivilegeEscalation"] == json!(false),
            format!("{name}: must not gain privileges"),
        );
        must(
            security["readOnlyRootFilesystem"] == json!(true),
            format!("{name}: must not write to its root"),
        );
        must(
            security["capabilities"] == json!({"drop": ["ALL"]}),
            format!("{name}: must drop all capabilities"),
        );
        must(
            !text(&container["image"]).is_empty(),
            format!("{name}: must have an image"),
        );
        must(
            container["resources"]["limits"]["memory"].is_string(),
            format!("{name}: must have a memory limit"),
        );
        let mut names = BTreeSet::new();
        for variable in items(&container["env"]) {
            must(
                names.insert(text(&variable["name"])),
                format!("{name}: {} is there twice", variable["name"]),
            );
        }
    }
    for container in items(&spec["containers"]).filter(|_| long) {
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            must(
                container[probe].is_object(),
                format!("{}: must have a {probe}", text(&container["name"])),
            );
        }
    }
}

/// What selects pods must find some, and the ports that it names.
fn check_selector(document: &Value, documents: &[Value], faults: &mut Vec<String>) {
    let spec = &document["spec"];
    let (labels, ports): (_, Vec<&str>) = match text(&document["kind"]) {
        "Service" => {
            let ports = items(&spec["ports"]).map(|port| text(&port["targetPort"]));
            (&spec["selector"], ports.collect())
        }
        "NetworkPolicy" => {
            let rules = items(&spec["ingress"]).flat_map(|rule| items(&rule["ports"]));
            (
                &spec["podSelector"]["matchLabels"],
                rules.map(|it| text(&it["port"])).collect(),
            )
        }
        _ => (&spec["selector"]["matchLabels"], Vec::new()),
    };
    let selected: Vec<&Value> = documents
        .iter()
        .filter_map(pod)
        .filter(|pod| has(pod, labels))
        .collect();
    // `helm test`'s pod and the hook are left out where only the lasting objects are rendered.
    if selected.is_empty() && labels["app.kubernetes.io/component"] != "smoke-test" {
        faults.push(format!("selects no pod: {labels}"));
    }
    for port in ports {
        let named = selected.iter().all(|pod| {
            let mut ports = items(&pod["spec"]["containers"]).flat_map(|it| items(&it["ports"]));
            ports.any(|it| it["name"] == port)
        });
        if !named {
            faults.push(format!(
                "names the port {port:?}, which its pods do not have"
            ));
        }
    }
}

fn has(pod: &Value, labels: &Value) -> bool {
    let empty = Map::new();
    let mut wanted = labels.as_object().unwrap_or(&empty).iter();
    wanted.all(|(name, value)| pod["metadata"]["labels"][name] == *value)
}

/// Helm must hear how it ended before it gives up itself, and find the pod's log. A Job has failed when its pods are gone,
/// whose grace period comes on top.
fn check_hook(document: &Value, faults: &mut Vec<String>) {
    let seconds = |spec: &Value, key: &str| spec[key].as_u64().unwrap_or(HELM_TIMEOUT);
    let (spec, pod) = (&document["spec"], &document["spec"]["template"]["spec"]);
    let grace = seconds(pod, "terminationGracePeriodSeconds");
    let deadline = seconds(spec, "activeDeadlineSeconds");
    if deadline + grace >= HELM_TIMEOUT {
        faults.push(format!(
            "must have ended sooner than Helm's timeout of {HELM_TIMEOUT} s"
        ));
    }
    if seconds(pod, "activeDeadlineSeconds") + grace >= deadline {
        faults.push("must end its pod, which keeps the log, before it deletes it".to_owned());
    }
}

/// An object is there once; what the Role names is there.
fn check_names(documents: &[Value], faults: &mut BTreeSet<String>) {
    let name = |document: &Value| {
        let kind = text(&document["kind"]).to_lowercase();
        (kind, text(&document["metadata"]["name"]).to_owned())
    };
    let mut names = BTreeSet::new();
    for document in documents {
        if !names.insert(name(document)) {
            faults.insert(format!("{:?} is there twice", name(document)));
        }
    }
    let rules = documents.iter().filter(|it| it["kind"] == "Role");
    for rule in rules.flat_map(|role| items(&role["rules"])) {
        for resource in items(&rule["resources"]) {
            for named in items(&rule["resourceNames"]) {
                let object = (
                    text(resource).trim_end_matches('s').to_owned(),
                    text(named).to_owned(),
                );
                if !names.contains(&object) {
                    faults.insert(format!("a Role names {object:?}, which is not there"));
                }
            }
        }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "kind": "Pod",
            "metadata": {"name": "p", "labels": {"app": "p"}},
            "spec": {
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "c",
                    "image": "i",
                    "env": [{"name": "A"}],
                    "ports": [{"name": "http"}],
                    "resources": {"limits": {"memory": "1Mi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        })
    }

    fn fault(documents: &[Value]) -> String {
        check(documents).expect_err("a rule is broken").to_string()
    }

    #[test]
    fn a_pod_that_keeps_all_rules_is_fine() {
        check(&[pod()]).expect("keeps all rules");
    }

    #[test]
    fn a_variable_that_is_there_twice_is_found() {
        let mut pod = pod();
        pod["spec"]["containers"][0]["env"] = json!([{"name": "A"}, {"name": "A"}]);
        assert!(fault(&[pod]).contains("\"A\" is there twice"));
    }

    #[test]
    fn a_pod_that_is_not_restricted_is_found() {
        let mut pod = pod();
        pod["spec"]["securityContext"] = json!({});
        pod["spec"]["containers"][0]["securityContext"] = json!({});
        assert_eq!(fault(&[pod]).lines().skip(1).count(), 6);
    }

    #[test]
    fn a_service_that_finds_no_pod_or_no_port_is_found() {
        let service = |app: &str, port: &str| {
            json!({
                "kind": "Service",
                "metadata": {"name": "s"},
                "spec": {"selector": {"app": app}, "ports": [{"targetPort": port}]},
            })
        };
        check(&[pod(), service("p", "http")]).expect("finds both");
        assert!(fault(&[pod(), service("q", "http")]).contains("selects no pod"));
        assert!(fault(&[pod(), service("p", "web")]).contains("names the port \"web\""));
    }

    #[test]
    fn a_job_that_ends_too_late_for_helm_or_deletes_its_log_is_found() {
        let job = |deadline: u64, of_pod: Option<u64>| {
            let mut pod = pod();
            pod["spec"]["activeDeadlineSeconds"] = json!(of_pod);
            pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
            json!({
                "kind": "Job",
                "metadata": {"name": "j"},
                "spec": {"activeDeadlineSeconds": deadline, "template": pod},
            })
        };
        check(&[job(279, Some(250))]).expect("ends in time");
        assert!(fault(&[job(280, Some(250))]).contains("sooner than Helm's timeout"));
        assert!(fault(&[job(270, Some(250))]).contains("must end its pod"));
        assert!(fault(&[job(270, None)]).contains("must end its pod"));
    }

    #[test]
    fn a_role_that_names_what_is_not_there_is_found() {
        let role = json!({
            "kind": "Role",
            "metadata": {"name": "r"},
            "rules": [{"resources": ["leases"], "resourceNames": ["l"]}],
        });
        assert!(
            fault(std::slice::from_ref(&role)).contains("(\"lease\", \"l\"), which is not there")
        );
        check(&[role, json!({"kind": "Lease", "metadata": {"name": "l"}})]).expect("is there");
    }
}
