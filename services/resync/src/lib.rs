//! The operator-style Job: runs server B's full sync on every rollout of server A, and waits until each new replica
//! has proven that its cache equals the database at or past the sync's position.
//!
//! ```text
//! request noted → turn (Lease) → server B answers → full sync → pods of the newest ReplicaSet: ready, proven
//!     → Events on the Deployment, ConfigMap, termination message, exit code (see [`failure`])
//! ```
//!
//! # Several at once
//! Runs queue up behind a Lease. The `ConfigMap` counts the syncs that were begun and names the newest that succeeded. A
//! run notes the count when it is asked for; a success with a higher number began later, so a run that waited for its
//! turn is done by it. No clocks of different nodes are compared, nor are they for a Lease whose holder died: it is
//! taken over after it has been seen unchanged for its duration.
//!
//! # What it may do in the cluster
//! | group | resource | named | verbs |
//! |---|---|---|---|
//! | `apps` | `deployments` | the Deployment | `get`, `list`, `watch` |
//! | `apps` | `replicasets` | | `list`, `watch` |
//! | core | `pods` | | `list`, `watch` |
//! | `coordination.k8s.io` | `leases` | the Lease | `get`, `update` |
//! | core | `configmaps` | the result's | `get`, `update` |
//! | `events.k8s.io` | `events` | | `create` |
//!
//! Lease and `ConfigMap` must be there, empty. Lists and watches of the Deployment select it by name, so that naming
//! it in the Role suffices.
//!
//! # How much fits into the time limit
//! A full sync publishes each user once, and the broker copies it to each replica's queue. Measured on two cores that
//! broker, database, services and replicas shared: 20,000 users/s to one replica, 8,000 to 10,000 users/s to four. That
//! is at most 25 µs for a user and 25 µs for each copy. With 30 s for the start of server B, the read and the proofs, a
//! limit of T seconds is enough for `users × (1 + replicas) × 25 µs ≤ T − 30 s`:
//!
//! | T | users × (1 + replicas) | for instance |
//! |---|---|---|
//! | 240 s | 8.4 million | 1,000,000 users and 7 replicas, 160,000 users and 50 replicas |
//! | 1,500 s | 58 million | 1,000,000 users and 50 replicas |
//!
//! Beyond it raise the limit to T seconds, and Helm's `--timeout` to T + 60. A replica that takes nothing in holds the
//! sync up for 30 s before it goes on without it. Where Helm does not `--wait`, the rollout is part of the time.

pub mod cli;
mod cluster;
mod deadline;
pub mod failure;
mod full_sync;
pub mod job;
mod record;
mod rollout;
mod said;
mod server_b;
pub mod smoke_test;
mod turn;
