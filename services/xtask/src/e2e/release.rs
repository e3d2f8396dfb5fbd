//! Install, upgrade, rollback, uninstall.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::load::Load;
use super::world::{COMPONENTS, RELEASE, World, is_ready, name, name_of};

/// Kept from the upgrade that brings them: `kubectl scale` owns the number later, and Helm 4 does not take it back.
const FOUR_REPLICAS: &str = "serverA.replicaCount=4";

/// From nothing, in a namespace that enforces Pod Security `restricted`.
pub fn install(world: &World) -> Result<String> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": world.namespace,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    });
    world.kubectl.apply(&namespace.to_string())?;
    let lax = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lax", "namespace": world.namespace},
        "spec": {"containers": [{"name": "lax", "image": "any"}]},
    });
    let refused = world.kubectl.apply(&lax.to_string());
    let refused = refused
        .err()
        .context("a pod that restricts nothing is admitted")?;
    ensure!(format!("{refused:#}").contains("restricted"), "{refused:#}");
    world.deploy("install", &world.tags[0], &[])?;
    for component in COMPONENTS {
        let pods = world.pods(component)?;
        let expected = if component == "server-a" { 2 } else { 1 };
        ensure!(
            pods.len() == expected,
            "{component} has {} pods",
            pods.len()
        );
        let unready: Vec<String> = pods
            .iter()
            .filter(|pod| !is_ready(pod))
            .map(name_of)
            .collect();
        ensure!(unready.is_empty(), "not ready: {unready:?}");
    }
    let job = world.get(&["job", &name("resync")])?;
    ensure!(
        job["status"]["succeeded"] == 1,
        "the hook Job: {}",
        job["status"]
    );

    world.create_user()?;
    let user = world.user()?;
    for pod in world.pods("server-a")? {
        let verdict = world.verdict(&format!("pod/{}", name_of(&pod)), &user.key)?;
        ensure!(verdict == 422, "{} answers {verdict}", name_of(&pod));
    }
    world.works()?;
    world.helm(&["test", RELEASE])?;
    Ok(
        "all pods ready, the user known to every replica, SMS processed, helm test passed"
            .to_owned(),
    )
}

/// Every pod stays the one that it was.
pub fn upgrade_to_the_same(world: &World) -> Result<String> {
    let before = pod_ids(world)?;
    world.deploy("upgrade", &world.tags[0], &[])?;
    let after = pod_ids(world)?;
    ensure!(before == after, "pods were replaced: {before:?} {after:?}");
    Ok(format!("{} pods stayed", after.len()))
}

fn pod_ids(world: &World) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for component in COMPONENTS {
        ids.extend(
            world
                .pods(component)?
                .iter()
                .map(|pod| pod["metadata"]["uid"].to_string()),
        );
    }
    Ok(ids)
}

/// The Job runs again, and leaves its events and result; no send fails.
pub fn upgrade_to_more_replicas(world: &World) -> Result<String> {
    let user = world.user()?;
    let syncs = world.newest_resync()?;
    let load = Load::start(world, "load-replicas", user)?;
    world.deploy("upgrade", &world.tags[0], &[FOUR_REPLICAS])?;
    world.wait_ready("server-a", 4)?;
    load.more(20)?;
    let sends = load.stop()?;
    sends.none_failed()?;
    ensure!(
        world.newest_resync()? == syncs + 1,
        "the hook Job did not run once"
    );
    let result = world.resync_result()?;
    let sync = result["sync_id"]
        .as_str()
        .with_context(|| format!("no sync_id in {result}"))?;
    events_are_there(
        world,
        &[
            ("ResyncStarted", &format!("resync {} begins", syncs + 1)),
            ("ResyncSucceeded", sync),
        ],
    )?;
    ensure!(result["outcome"] == "succeeded", "{result}");
    Ok(format!(
        "{} sends, none failed; events and result are there",
        sends.accepted.len()
    ))
}

/// Events on the Deployment of A, with what their notes contain.
fn events_are_there(world: &World, expected: &[(&str, &str)]) -> Result<()> {
    let deployment = name("server-a");
    let events = world.get(&["events"])?;
    for (reason, part) in expected {
        let mut events = events["items"].as_array().into_iter().flatten();
        let found = events.any(|event| {
            event["involvedObject"]["name"] == deployment.as_str()
                && event["reason"] == *reason
                && event["message"]
                    .as_str()
                    .is_some_and(|note| note.contains(part))
        });
        ensure!(found, "no event {reason} on the Deployment with \"{part}\"");
    }
    Ok(())
}

/// To images of another tag with changed settings, and back.
pub fn upgrade_and_rollback(world: &World) -> Result<String> {
    let user = world.user()?;
    let syncs = world.newest_resync()?;
    let load = Load::start(world, "load-upgrade", user)?;
    let settings = [
        FOUR_REPLICAS,
        "serverA.failClosedAfterSeconds=20",
        "serverB.auditIntervalSeconds=300",
        "log.level=debug",
    ];
    let settled = |tag: &str, limit: &str| {
        for component in ["server-b", "server-a", "user-service"] {
            let tags = tags(world, component)?;
            ensure!(
                tags == [tag.to_owned()].into(),
                "{component} has the images {tags:?}"
            );
        }
        for pod in world.pods("server-a")? {
            let seen = env(&pod, "FAIL_CLOSED_AFTER_SECONDS");
            ensure!(seen == limit, "{} serves {seen} s", name_of(&pod));
        }
        load.more(20)
    };
    world.deploy("upgrade", &world.tags[1], &settings)?;
    settled(&world.tags[1], "20")?;
    world.helm(&["rollback", RELEASE, "--wait"])?;
    settled(&world.tags[0], "15")?;
    let sends = load.stop()?;
    sends.none_failed()?;
    sends.all_stored(world, user)?;
    let ran = world.newest_resync()? - syncs;
    ensure!(ran == 2, "the hook Job ran {ran} times");
    Ok(format!(
        "{} sends, none failed, all stored; the Job ran for each",
        sends.accepted.len()
    ))
}

/// Tags of a component's images.
fn tags(world: &World, component: &str) -> Result<BTreeSet<String>> {
    let pods = world.pods(component)?;
    let tags = pods.iter().filter_map(|pod| {
        let image = pod["spec"]["containers"][0]["image"].as_str()?;
        Some(image.rsplit(':').next()?.to_owned())
    });
    Ok(tags.collect())
}

/// An environment variable of a pod's container.
fn env<'a>(pod: &'a Value, name: &str) -> &'a str {
    let variables = pod["spec"]["containers"][0]["env"].as_array();
    let mut variables = variables.into_iter().flatten();
    let found = variables.find(|variable| variable["name"] == name);
    found
        .and_then(|variable| variable["value"].as_str())
        .unwrap_or_default()
}

/// Without server B there is no sync: Helm says that the release failed, and why.
pub fn failing_sync(world: &World) -> Result<String> {
    let settings = [
        FOUR_REPLICAS,
        "serverB.replicaCount=0",
        "resync.timeoutSeconds=15",
    ];
    let failed = world.deploy("upgrade", &world.tags[0], &settings);
    let said = format!("{:#}", failed.err().context("the release did not fail")?);
    // Helm prints the Job's log as the text of one line.
    let reason = said
        .split(['\n', '"'])
        .flat_map(|text| text.split("\\n"))
        .find(|line| line.contains("ERROR"));
    let reason = reason.with_context(|| format!("Helm does not tell the reason: {said}"))?;
    ensure!(reason.contains("server B"), "another reason: {reason}");
    world.deploy("upgrade", &world.tags[0], &[FOUR_REPLICAS])?;
    world.wait_ready("server-b", 1)?;
    Ok(format!("Helm says: {reason}"))
}

/// What the docs name stays, and nothing else.
pub fn uninstall(world: &World) -> Result<String> {
    world.helm(&["uninstall", RELEASE, "--wait"])?;
    let kinds = world.kubectl(&[
        "api-resources",
        "--namespaced",
        "--verbs=list",
        "--output=name",
    ])?;
    let kinds: Vec<&str> = kinds
        .lines()
        // Records of the past, and what Kubernetes itself puts into every namespace.
        .filter(|kind| !kind.starts_with("events"))
        .collect();
    let all = |expected: &BTreeSet<String>| {
        world.eventually("the end of everything else", || {
            let left = left(world, &kinds.join(","))?;
            ensure!(
                left == *expected,
                "{left:#?} are left, but {expected:#?} should be"
            );
            Ok(())
        })
    };
    let stays: BTreeSet<String> = STAYS.iter().map(|object| (*object).to_owned()).collect();
    all(&stays)?;
    // As the chart's README says.
    let label = format!("app.kubernetes.io/instance={RELEASE}");
    world.kubectl(&["delete", "secret,pvc,job,pod", "--selector", &label])?;
    all(&BTreeSet::new())?;
    Ok(format!(
        "{}; removed by one kubectl delete",
        Vec::from_iter(stays).join(", ")
    ))
}

fn left(world: &World, kinds: &str) -> Result<BTreeSet<String>> {
    let objects = world.kubectl(&["get", kinds, "--output=name", "--ignore-not-found"])?;
    let objects = objects
        .lines()
        .filter(|object| !OF_EVERY_NAMESPACE.contains(object));
    Ok(objects
        .map(|object| {
            // What follows is by chance.
            let of_job = object.starts_with(POD_OF_JOB);
            (if of_job { POD_OF_JOB } else { object }).to_owned()
        })
        .collect())
}

const POD_OF_JOB: &str = "pod/demo-identity-sync-resync-";
const OF_EVERY_NAMESPACE: [&str; 2] = ["configmap/kube-root-ca.crt", "serviceaccount/default"];

/// The README of the chart tells the same.
const STAYS: [&str; 9] = [
    "job.batch/demo-identity-sync-resync",
    "persistentvolumeclaim/data-demo-identity-sync-postgresql-0",
    "persistentvolumeclaim/data-demo-identity-sync-rabbitmq-0",
    POD_OF_JOB,
    "pod/demo-identity-sync-smoke-test",
    "secret/demo-identity-sync-postgresql",
    "secret/demo-identity-sync-rabbitmq",
    "secret/demo-identity-sync-server-b",
    "secret/demo-identity-sync-service-token",
];
