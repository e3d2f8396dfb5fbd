//! What the world does to pods.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::load::Load;
use super::world::{COMPONENTS, World, name_of};

/// RabbitMQ's pod deleted, PostgreSQL's pod deleted, B killed with -9, all under load: no accepted SMS is lost.
pub fn pods_are_killed(world: &World) -> Result<String> {
    let user = world.user()?;
    let load = Load::start(world, "load-outages", user)?;
    let counts = counts(world)?;
    let mut recovered = Vec::new();
    for component in ["rabbitmq", "postgresql"] {
        let pods = world.pods(component)?;
        let pod = name_of(pods.first().context("its pod")?);
        world.kubectl(&["delete", "pod", &pod])?;
        let deleted = Instant::now();
        wait_for_all(world, &counts)?;
        load.more(20)?;
        world.works()?;
        recovered.push(format!(
            "{component} {:.0} s",
            deleted.elapsed().as_secs_f64()
        ));
    }
    kill_b(world)?;
    let killed = Instant::now();
    wait_for_all(world, &counts)?;
    load.more(20)?;
    world.works()?;
    recovered.push(format!("B {:.0} s", killed.elapsed().as_secs_f64()));
    let sends = load.stop()?;
    sends.all_stored(world, user)?;
    Ok(format!(
        "back after: {}; {} accepted SMS all stored, {} refused meanwhile",
        recovered.join(", "),
        sends.accepted.len(),
        sends.failed.len()
    ))
}

/// How many pods each component has.
fn counts(world: &World) -> Result<Vec<(&'static str, usize)>> {
    let count = |component| Ok((component, world.pods(component)?.len()));
    COMPONENTS.into_iter().map(count).collect()
}

fn wait_for_all(world: &World, counts: &[(&str, usize)]) -> Result<()> {
    for (component, count) in counts {
        world.wait_ready(component, *count)?;
    }
    Ok(())
}

/// By the kernel if its processes are this machine's, else as near to that as the API comes.
fn kill_b(world: &World) -> Result<()> {
    let pods = world.pods("server-b")?;
    let pod = pods.first().context("a pod of B")?;
    let container = &pod["status"]["containerStatuses"][0];
    let id = container["containerID"].as_str().unwrap_or_default();
    let processes = processes_of(id.trim_start_matches("containerd://"));
    if processes.is_empty() {
        ensure!(!world.throwaway, "server B has no process");
        world.kubectl(&[
            "delete",
            "pod",
            &name_of(pod),
            "--grace-period=0",
            "--force",
        ])?;
        return Ok(());
    }
    for process in processes {
        kill_process(process, Signal::KILL).context("killing server B")?;
    }
    let before = container["restartCount"].as_i64().unwrap_or_default();
    let path = format!("pod/{}", name_of(pod));
    world.eventually("a restart of B's container", || {
        let pod = world.get(&[&path])?;
        let restarts = pod["status"]["containerStatuses"][0]["restartCount"].as_i64();
        ensure!(restarts > Some(before), "{restarts:?} restarts");
        Ok(())
    })
}

/// The processes of a container on this machine.
fn processes_of(container: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| !container.is_empty() && in_cgroup(entry, container))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

fn in_cgroup(process: &fs::DirEntry, container: &str) -> bool {
    fs::read_to_string(process.path().join("cgroup")).is_ok_and(|text| text.contains(container))
}
