//! Metrics of server B.
