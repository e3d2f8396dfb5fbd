//! What operators do with pods and Jobs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::world::{World, component, is_ready, name, name_of};

/// Longer than server A's two limits need to close a cache, and than its first tries to get a snapshot.
const UNREADY_FOR: Duration = Duration::from_secs(20);

/// With B away, a fresh pod of A runs, is not ready, and no endpoint points at it; B comes, and it is ready.
pub fn unready_until_complete(world: &World) -> Result<String> {
    let user = world.user()?;
    // By Helm, not by `kubectl scale`: Helm 4 does not take back a field that another client has set.
    let scale_b = |replicas: u8| {
        let replicas = format!("serverB.replicaCount={replicas}");
        world.deploy(
            "upgrade",
            &world.tags[0],
            &[&replicas, "resync.hook.enabled=false"],
        )
    };
    scale_b(0)?;
    // Helm does not wait for pods that are to end.
    let selector = component("server-b");
    world.kubectl(&[
        "wait",
        "--for=delete",
        "pod",
        "--selector",
        &selector,
        "--timeout=3m",
    ])?;
    let old: BTreeSet<String> = world.pods("server-a")?.iter().map(name_of).collect();
    let deleted = old.first().context("a pod of A")?;
    world.kubectl(&["delete", "pod", deleted, "--wait=false"])?;
    let fresh = world.eventually("a fresh pod of A that runs", || {
        let pods = world.pods("server-a")?;
        let fresh = pods.into_iter().find(|pod| !old.contains(&name_of(pod)));
        let fresh = fresh.context("there is none")?;
        let started = &fresh["status"]["containerStatuses"][0]["started"];
        ensure!(started == true, "{}", fresh["status"]);
        Ok(fresh)
    })?;
    let pod = format!("pod/{}", name_of(&fresh));
    let address = fresh["status"]["podIP"]
        .as_str()
        .context("the pod's address")?;
    let mut said = String::new();
    {
        let admin = world.forward(&pod, 9090)?;
        world.throughout(UNREADY_FOR, || {
            let readyz = world.http.get(&format!("{}/readyz", admin.url))?;
            ensure!(readyz.status == 503, "without B: {}", readyz.text);
            readyz.text.trim().clone_into(&mut said);
            ensure!(
                !is_ready(&world.get(&[&pod])?),
                "without B the pod is ready"
            );
            let ready = ready_addresses(world)?;
            ensure!(
                !ready.contains(address),
                "the Service points at the unready pod"
            );
            ensure!(!ready.is_empty(), "the Service points at no pod at all");
            Ok(())
        })?;
    }

    let returned = Instant::now();
    scale_b(1)?;
    world.wait_ready("server-a", 2)?;
    let verdict = world.verdict(&pod, &user.key)?;
    ensure!(verdict == 422, "the fresh pod answers {verdict}");
    Ok(format!(
        "for {} s without B it said {said}; ready {:.0} s after B was scaled up",
        UNREADY_FOR.as_secs(),
        returned.elapsed().as_secs_f64()
    ))
}

/// Where the Service of A sends requests.
fn ready_addresses(world: &World) -> Result<BTreeSet<String>> {
    let selector = format!("kubernetes.io/service-name={}", name("server-a"));
    let slices = world.get(&["endpointslices", "--selector", &selector])?;
    let endpoints = slices["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    Ok(endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .filter_map(|endpoint| Some(endpoint["addresses"][0].as_str()?.to_owned()))
        .collect())
}

/// No Job runs, and yet each becomes ready and knows the user.
pub fn pods_without_a_job(world: &World) -> Result<String> {
    let user = world.user()?;
    let syncs = world.newest_resync()?;
    let deployment = format!("deployment/{}", name("server-a"));
    let replicas = world.pods("server-a")?.len();
    world.kubectl(&["rollout", "restart", &deployment])?;
    world.kubectl(&["rollout", "status", &deployment, "--timeout=3m"])?;
    let pods = world.pods("server-a")?;
    let first = name_of(pods.first().context("a pod of A")?);
    world.kubectl(&["delete", "pod", &first])?;
    world.wait_ready("server-a", replicas)?;
    let more = format!("--replicas={}", replicas + 1);
    world.kubectl(&["scale", &deployment, &more])?;
    world.wait_ready("server-a", replicas + 1)?;
    for pod in world.pods("server-a")? {
        let verdict = world.verdict(&format!("pod/{}", name_of(&pod)), &user.key)?;
        ensure!(verdict == 422, "{} answers {verdict}", name_of(&pod));
    }
    ensure!(world.newest_resync()? == syncs, "a resync ran meanwhile");
    world.kubectl(&["scale", &deployment, &format!("--replicas={replicas}")])?;
    world.wait_ready("server-a", replicas)?;
    Ok(format!(
        "{replicas} restarted, 1 deleted, 1 added; no Job ran"
    ))
}

/// Of the table `users`, as the migrations make them.
const TRIGGERS: [&str; 5] = [
    "users_before",
    "users_after_insert_delete",
    "users_after_update",
    "users_wake",
    "users_no_truncate",
];

/// A change behind the triggers is in no cache; two Jobs at once heal it, one after the other.
pub fn resyncs_by_kubectl(world: &World) -> Result<String> {
    let user = world.user()?;
    let drift = |active: bool| {
        let again = TRIGGERS.map(|trigger| format!("ENABLE ALWAYS TRIGGER {trigger}"));
        world.sql(&format!(
            "BEGIN; ALTER TABLE users DISABLE TRIGGER USER;
             UPDATE users SET is_active = {active} WHERE user_id = {};
             ALTER TABLE users {}; COMMIT",
            user.id,
            again.join(", ")
        ))
    };
    let everywhere = |expected: u16| {
        for pod in world.pods("server-a")? {
            let verdict = world.verdict(&format!("pod/{}", name_of(&pod)), &user.key)?;
            ensure!(
                verdict == expected,
                "{} answers {verdict}, not {expected}",
                name_of(&pod)
            );
        }
        Ok(())
    };
    drift(false)?;
    everywhere(422)?;
    let from = format!("--from=cronjob/{}", name("resync"));
    // Until this is taken back both have to wait, so neither can be done before the other has come.
    hold_lease(world, "e2e")?;
    let jobs = ["resync-1", "resync-2"];
    for job in jobs {
        world.kubectl(&["create", "job", job, &from])?;
    }
    let log = |job: &str| world.kubectl(&["logs", &format!("job/{job}")]);
    world.eventually("both to queue up", || {
        for job in jobs {
            let log = log(job)?;
            ensure!(log.contains("waiting behind e2e"), "{job} says: {log}");
        }
        Ok(())
    })?;
    hold_lease(world, "")?;
    for job in jobs {
        let job = format!("job/{job}");
        world.kubectl(&["wait", "--for=condition=complete", &job, "--timeout=3m"])?;
    }
    everywhere(403)?;
    let logs = [log(jobs[0])?, log(jobs[1])?];
    let queued = logs
        .iter()
        .filter(|log| log.contains("waiting behind resync-"))
        .count();
    ensure!(
        queued == 1,
        "{queued} waited for the other:\n{}",
        logs.join("\n")
    );
    drift(true)?;
    let again = ["create", "job", "resync-3", &from];
    world.kubectl(&again)?;
    world.kubectl(&[
        "wait",
        "--for=condition=complete",
        "job/resync-3",
        "--timeout=3m",
    ])?;
    everywhere(422)?;
    Ok("drift healed on every replica; of two at once one waited".to_owned())
}

/// Writes who has the turn.
fn hold_lease(world: &World, holder: &str) -> Result<()> {
    let patch = json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 120}});
    let patch = format!("--patch={patch}");
    let lease = name("resync");
    world.kubectl(&["patch", "lease", &lease, "--type=merge", &patch])?;
    Ok(())
}

/// What `kubectl auth can-i --list` tells of the Job's account beyond what everyone may.
pub fn least_privilege(world: &World) -> Result<String> {
    let account = format!(
        "--as=system:serviceaccount:{}:{}",
        world.namespace,
        name("resync")
    );
    let list = world.kubectl(&["auth", "can-i", "--list", "--no-headers", &account])?;
    let rights: BTreeSet<String> = list
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        // Paths of the discovery and health of the API server, and questions about oneself: everyone's.
        .filter(|line| !line.starts_with("[/") && !line.starts_with("selfsubject"))
        .collect();
    let expected: BTreeSet<String> = [
        format!("configmaps [] [{}] [get update]", name("resync")),
        format!(
            "deployments.apps [] [{}] [get list watch]",
            name("server-a")
        ),
        "events.events.k8s.io [] [] [create]".to_owned(),
        format!(
            "leases.coordination.k8s.io [] [{}] [get update]",
            name("resync")
        ),
        "pods [] [] [list watch]".to_owned(),
        "replicasets.apps [] [] [list watch]".to_owned(),
    ]
    .into();
    ensure!(
        rights == expected,
        "it may {rights:#?}, but should {expected:#?}"
    );
    Ok(format!("{} rights", rights.len()))
}
