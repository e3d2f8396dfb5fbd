//! What the auth-service publishes.

use serde::{Deserialize, Serialize};

use crate::user::UserId;

/// A user was created in the auth-service (second requirement, "Event Structure").
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserCreated {
    /// `UserCreated`.
    pub event_type: String,
    /// The auth-service's id.
    pub user_id: UserId,
    /// Name.
    pub username: String,
    /// Address.
    pub email: String,
    /// Seconds since the Unix epoch.
    pub timestamp: f64,
}
