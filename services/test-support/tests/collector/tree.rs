//! Finds its way through exported spans.

use std::time::Duration;

use anyhow::{Result, ensure};
use test_support::eventually;
use test_support::servers::{Collector, ExportedSpan};

pub const SERVER: u64 = 2;
pub const CLIENT: u64 = 3;
pub const PRODUCER: u64 = 4;
pub const CONSUMER: u64 = 5;

/// Spans leave a process every half second here, and the collector after 0.2 s.
const DEADLINE: Duration = Duration::from_mins(1);

/// All spans of a collector at one moment.
pub struct Spans(pub Vec<ExportedSpan>);

impl Spans {
    /// Waits until `look` finds what it wants.
    pub fn eventually<T>(
        collector: &Collector,
        what: &str,
        look: impl Fn(&Self) -> Result<T>,
    ) -> T {
        eventually(DEADLINE, what, || look(&Self(collector.spans())))
    }

    /// All so named, of one kind.
    pub fn named(&self, name: &str, kind: u64) -> Vec<&ExportedSpan> {
        let wanted = |span: &&ExportedSpan| span.name == name && span.kind == kind;
        self.0.iter().filter(wanted).collect()
    }

    /// Those among them whose parent is `parent`, in its trace; exactly so many.
    pub fn children(
        &self,
        parent: &ExportedSpan,
        name: &str,
        kind: u64,
        count: usize,
    ) -> Result<Vec<&ExportedSpan>> {
        let mut children = self.named(name, kind);
        children
            .retain(|span| span.parent_id == parent.span_id && span.trace_id == parent.trace_id);
        ensure!(
            children.len() == count,
            "{} × `{name}` below `{}`, not {count}; all spans: {:#?}",
            children.len(),
            parent.name,
            self.0
                .iter()
                .map(|it| (&it.service, &it.name))
                .collect::<Vec<_>>()
        );
        Ok(children)
    }

    /// The only one of [`Self::children`].
    pub fn child(&self, parent: &ExportedSpan, name: &str, kind: u64) -> Result<&ExportedSpan> {
        Ok(self.children(parent, name, kind, 1)?[0])
    }

    /// One that links to `span`.
    pub fn linking_to(&self, span: &ExportedSpan, name: &str, kind: u64) -> Result<&ExportedSpan> {
        let mut linking = self.named(name, kind);
        linking.retain(|it| it.links.contains(&span.span_id));
        ensure!(
            linking.len() == 1,
            "{} × `{name}` with the link",
            linking.len()
        );
        Ok(linking[0])
    }
}
