//! Named gates that must all be open for the process to be ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;

/// The gates of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    gates: Arc<RwLock<BTreeMap<&'static str, Option<String>>>>,
}

/// One gate, closed until whoever holds it opens it.
#[derive(Debug, Clone)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// No gates: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a gate, closed for the reason given.
    #[must_use]
    pub fn gate(&self, name: &'static str, reason: &str) -> Gate {
        self.gates.write().insert(name, Some(reason.to_owned()));
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    /// The closed gates with their reasons; empty when ready.
    #[must_use]
    pub fn pending(&self) -> BTreeMap<&'static str, String> {
        self.gates
            .read()
            .iter()
            .filter_map(|(name, reason)| Some((*name, reason.clone()?)))
            .collect()
    }
}

impl Gate {
    /// Opens the gate.
    pub fn open(&self) {
        self.set(None);
    }

    /// Closes the gate; `/readyz` shows the reason.
    pub fn close(&self, reason: &str) {
        self.set(Some(reason));
    }

    fn set(&self, reason: Option<&str>) {
        let mut gates = self.readiness.gates.write();
        let previous = gates.insert(self.name, reason.map(str::to_owned));
        if previous.flatten().as_deref() != reason {
            match reason {
                None => tracing::info!(gate = self.name, "readiness gate opened"),
                Some(reason) => tracing::warn!(gate = self.name, reason, "readiness gate closed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_names_each_closed_gate_with_its_reason() {
        let readiness = Readiness::new();
        let cache = readiness.gate("cache", "no snapshot yet");
        let broker = readiness.gate("broker", "not connected");
        broker.open();
        assert_eq!(
            readiness.pending(),
            BTreeMap::from([("cache", "no snapshot yet".to_owned())])
        );
        cache.open();
        assert!(readiness.pending().is_empty());
        cache.close("broken for 15 s");
        assert_eq!(readiness.pending()["cache"], "broken for 15 s");
    }
}
