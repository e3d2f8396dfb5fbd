//! A pod that sends SMS all the time.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use test_support::try_eventually;

use super::world::{DEADLINE, User, World, name};

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
        try_eventually(DEADLINE, "an accepted SMS of the load", || {
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
        }
        Ok(sends)
    }

    /// Waits until so many more were accepted: what was done has been under load.
    pub fn more(&self, count: usize) -> Result<()> {
        let before = self.sends()?.accepted.len();
        try_eventually(DEADLINE, "more accepted SMS", || {
            let accepted = self.sends()?.accepted.len();
            ensure!(accepted >= before + count, "{} more", accepted - before);
            Ok(())
        })
    }

    /// Ends the load.
    pub fn stop(self) -> Result<Sends> {
        // The last line comes a second after the last send.
        self.more(1)?;
        let sends = self.sends()?;
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
        try_eventually(
            Duration::from_mins(2),
            "every accepted SMS in server B",
            || {
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
            },
        )
    }
}
