//! The result in the `ConfigMap`: how the last run ended, and the count of syncs by which a run that waited for its turn
//! knows that another one did its work.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::PostParams;

use crate::cluster::{self, CallError};

/// Number of the newest sync that was begun.
const BEGUN: &str = "begun";
/// Number of the newest sync that succeeded.
const SUCCEEDED: &str = "succeeded";
/// Only one run at a time writes; conflicts come from people and from tools.
const ATTEMPTS: u32 = 5;

/// What the `ConfigMap` holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    begun: u64,
    succeeded: u64,
    /// For people: how the last run went.
    details: BTreeMap<String, String>,
}

/// How a run went: keys and values of the `ConfigMap`, in any order.
pub type Details = Vec<(&'static str, String)>;

impl Record {
    /// # Errors
    /// Names the key that is no number.
    pub fn from_data(data: Option<BTreeMap<String, String>>) -> Result<Self, String> {
        let mut details = data.unwrap_or_default();
        let mut number = |key: &str| {
            let text = details.remove(key).unwrap_or_default();
            match text.as_str() {
                "" => Ok(0),
                text => text.parse().map_err(|_| {
                    format!("data.{key} is `{text}` but must be a number: remove the key")
                }),
            }
        };
        Ok(Self {
            begun: number(BEGUN)?,
            succeeded: number(SUCCEEDED)?,
            details,
        })
    }

    /// As it is stored.
    pub fn into_data(self) -> BTreeMap<String, String> {
        let mut data = self.details;
        data.insert(BEGUN.to_owned(), self.begun.to_string());
        data.insert(SUCCEEDED.to_owned(), self.succeeded.to_string());
        data
    }

    /// Syncs begun so far; noted by a run when it is asked for.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether a sync has succeeded that began after `begun_at_request` was read.
    pub fn fulfils(&self, begun_at_request: u64) -> bool {
        self.succeeded > begun_at_request
    }

    /// A detail of the last run.
    pub fn detail(&self, key: &str) -> &str {
        self.details.get(key).map_or("", String::as_str)
    }

    /// Begins a sync: its number.
    pub fn begin(&mut self, details: Details) -> u64 {
        // Never behind `succeeded`, whatever was edited.
        self.begun = self.begun.max(self.succeeded) + 1;
        self.replace_details(details);
        self.begun
    }

    /// Ends a run. `number` is that of its sync, if it came so far.
    pub fn end(&mut self, number: Option<u64>, succeeded: bool, details: Details) {
        // A number that the count has not reached is of before the count was reset: later runs must not take it for
        // theirs.
        if let Some(number) = number.filter(|number| succeeded && *number <= self.begun) {
            self.succeeded = self.succeeded.max(number);
        }
        // After a lost Lease another run may have begun: what is told is its story.
        if number.is_none_or(|number| number == self.begun) {
            self.replace_details(details);
        }
    }

    fn replace_details(&mut self, details: Details) {
        self.details = details
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
    }
}

/// The `ConfigMap`.
#[derive(Debug, Clone)]
pub struct Records {
    api: Api<ConfigMap>,
    name: String,
}

impl Records {
    pub fn new(api: Api<ConfigMap>, name: &str) -> Self {
        Self {
            api,
            name: name.to_owned(),
        }
    }

    /// The record as it is now.
    pub async fn read(&self) -> Result<Record, RecordError> {
        let map = cluster::call(self.api.get(&self.name)).await?;
        Ok(Record::from_data(map.data)?)
    }

    /// Reads, changes and writes the record.
    pub async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Record) -> T,
    ) -> Result<T, RecordError> {
        let mut attempt = 1;
        loop {
            let mut map = cluster::call(self.api.get(&self.name)).await?;
            let mut record = Record::from_data(map.data.take())?;
            let value = change(&mut record);
            map.data = Some(record.into_data());
            // Carries the version that was read, so that no change in between is lost.
            let parameters = PostParams::default();
            let written = self.api.replace(&self.name, &parameters, &map);
            match cluster::call(written).await {
                Ok(_) => return Ok(value),
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Why the `ConfigMap`, or the Lease that is read with it, could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("Lease or result: {0}")]
    Call(#[from] CallError),
    #[error("result: {0}")]
    Malformed(String),
}

impl RecordError {
    /// Whether the same call may work a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_passing())
    }
}

impl From<String> for RecordError {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
