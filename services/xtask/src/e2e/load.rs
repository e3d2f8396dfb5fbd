//! A pod that sends SMS all the time.

use std::collections::HashSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::world::{User, World, name};

/// Sends per second.
const RATE: u32 = 20;

/// The load, until it is stopped.
#[derive(Debug)]
pub struct Load<'a> {
    world: &'a World,
    pod: &'static str,
}

/// What came of the sends.
#[derive(Debug, Default)]
pub struct Sends {
    /// Ids of the accepted ones.
    pub accepted: HashSet<String>,
    /// Status or error of the others.
    pub failed: Vec<String>,
    /// Of each second, how many were without an answer at its end.
    open: Vec<u64>,
}

impl<'a> Load<'a> {
    /// Starts it, and waits until the first SMS is accepted.
    pub fn start(world: &'a World, pod: &'static str, user: &User) -> Result<Self> {
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": world.namespace},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "load",
                    "image": world.load_image,
                    "imagePullPolicy": "IfNotPresent",
                    "env": [
                        {"name": "TARGET_URL", "value": format!("http://{}:8080", name("server-a"))},
                        {"name": "API_KEY", "value": user.key},
                        {"name": "PER_SECOND", "value": RATE.to_string()},
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        });
        world.kubectl.apply(&manifest.to_string())?;
        let load = Self { world, pod };
        world.eventually("an accepted SMS of the load", || {
            let sends = load.sends()?;
            ensure!(!sends.accepted.is_empty(), "{:?}", sends.failed.first());
            Ok(())
        })?;
        Ok(load)
    }

    /// What came of the sends so far.
    pub fn sends(&self) -> Result<Sends> {
        let log = self.world.kubectl(&["logs", self.pod])?;
        let mut sends = Sends::default();
        for line in log.lines() {
            let line: Value =
                serde_json::from_str(line).with_context(|| format!("the load says: {line}"))?;
            let texts = |key: &str| {
                let texts = line[key].as_array().into_iter().flatten();
                texts
                    .filter_map(|text| Some(text.as_str()?.to_owned()))
                    .collect::<Vec<_>>()
            };
            sends.accepted.extend(texts("accepted"));
            sends.failed.extend(texts("failed"));
            sends.open.push(line["open"].as_u64().context("open")?);
        }
        Ok(sends)
    }

    /// Waits until so many more were accepted: what was done has been under load.
    pub fn more(&self, count: usize) -> Result<()> {
        let before = self.sends()?.accepted.len();
        self.world.eventually("more accepted SMS", || {
            let accepted = self.sends()?.accepted.len();
            ensure!(accepted >= before + count, "{} more", accepted - before);
            Ok(())
        })
    }

    /// Ends the load, once every send has its answer: one that hangs has failed.
    pub fn stop(self) -> Result<Sends> {
        let before = self.sends()?.open.len();
        let answered = "a moment at which every send has its answer";
        let sends = self.world.eventually(answered, || {
            let sends = self.sends()?;
            let open = sends.open.get(before..).unwrap_or_default();
            ensure!(
                open.contains(&0),
                "in the seconds since, these hung: {open:?}"
            );
            Ok(sends)
        })?;
        self.world
            .kubectl(&["delete", "pod", self.pod, "--wait=true"])?;
        Ok(sends)
    }
}

impl Sends {
    /// An error if any send with the valid key did not get 202.
    pub fn none_failed(&self) -> Result<()> {
        ensure!(
            self.failed.is_empty(),
            "{} of {} sends failed, such as: {}",
            self.failed.len(),
            self.failed.len() + self.accepted.len(),
            self.failed[0]
        );
        Ok(())
    }

    /// Waits until server B has stored every accepted SMS for the user.
    pub fn all_stored(&self, world: &World, user: &User) -> Result<()> {
        world.eventually("every accepted SMS in server B", || {
            let stored = world.sql(&format!(
                "SELECT message_id FROM sms_messages WHERE user_id = {}",
                user.id
            ))?;
            let stored: HashSet<&str> = stored.lines().collect();
            let missing = self
                .accepted
                .iter()
                .filter(|id| !stored.contains(id.as_str()))
                .count();
            ensure!(
                missing == 0,
                "{missing} of {} are missing",
                self.accepted.len()
            );
            Ok(())
        })
    }
}
