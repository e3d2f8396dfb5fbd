//! Each test's own place on the shared servers.

use test_support::TestServers;
use test_support::servers::psql;

#[test]
fn a_fresh_database_is_empty_and_dropped_with_its_guard() {
    let servers = TestServers::shared();
    let (one, other) = (servers.fresh_database(), servers.fresh_database());
    one.sql("CREATE TABLE mine ()").expect("a table");
    assert!(other.sql("SELECT FROM mine").is_err());
    let url = one.url().to_owned();
    drop(one);
    assert!(psql(&url, "SELECT 1").is_err());
}

#[test]
fn a_fresh_vhost_is_empty_and_deleted_with_its_guard() {
    let servers = TestServers::shared();
    let vhost = servers.fresh_vhost();
    assert!(vhost.url().ends_with(&format!("/{}", vhost.name())));
    assert!(
        vhost
            .management()
            .queues(vhost.name())
            .expect("a list")
            .is_empty()
    );
    let (management, name) = (vhost.management().clone(), vhost.name().to_owned());
    drop(vhost);
    assert!(management.queues(&name).is_err());
}
