//! A replica: the real [`CacheState`], a subscription, and what it has last been told.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use server_a::cache::{CacheState, Effect};
use wire_contract::{ConfigEvent, Position, UserId};

use crate::database::{Key, Table, User, short};

/// A replica.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The state that the service keeps.
    pub cache: Arc<CacheState>,
    /// Stands for `cache` when states are compared.
    print: u64,
    /// Whether a queue is bound.
    pub subscribed: bool,
    /// Names the queue: grows with each subscription.
    pub queue: u8,
    /// From here on what is applied must equal the database.
    pub comparable: Position,
    /// The last message was a bookmark of everything there is.
    pub marked: bool,
}

impl PartialEq for Replica {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Hash for Replica {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Replica {
    /// One that has never connected.
    #[must_use]
    pub fn new(cache: CacheState) -> Self {
        let mut replica = Self {
            cache: Arc::new(cache),
            print: 0,
            subscribed: false,
            queue: 0,
            comparable: Position::default(),
            marked: false,
        };
        replica.change(|_| ());
        replica
    }

    fn key(&self) -> (u64, bool, u8, Position, bool) {
        (
            self.print,
            self.subscribed,
            self.queue,
            self.comparable,
            self.marked,
        )
    }

    /// Changes the cache.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut CacheState) -> T) -> T {
        let result = change(Arc::make_mut(&mut self.cache));
        let mut hasher = DefaultHasher::new();
        canonical(&format!("{:?}", self.cache)).hash(&mut hasher);
        self.print = hasher.finish();
        result
    }

    /// Takes a message in.
    pub fn apply(&mut self, event: ConfigEvent) -> Effect {
        let comparable = match &event {
            ConfigEvent::SnapshotCompleted(end) => Some((end.position.epoch, end.comparable_from)),
            ConfigEvent::SyncCompleted(end) => Some((end.position.epoch, end.comparable_from)),
            _ => None,
        };
        let effect = self.change(|cache| cache.apply(event));
        if let (Effect::SourceCompleted, Some((epoch, sequence))) = (effect, comparable) {
            self.comparable = self.comparable.max(Position { epoch, sequence });
        }
        effect
    }

    /// Binds a fresh queue.
    pub fn subscribe(&mut self) {
        self.subscribed = true;
        self.queue += 1;
        self.comparable = Position::default();
        self.marked = false;
        self.change(CacheState::subscribed);
    }

    /// Who a key lets in.
    #[must_use]
    pub fn who(&self, key: Key) -> Option<UserId> {
        self.cache.look_up(&short(key), 0).map(|user| user.user_id)
    }

    /// Whether it knows of a source under way.
    #[must_use]
    pub fn has_sources(&self) -> bool {
        self.cache.under_way().next().is_some()
    }

    /// Whether every look-up answers as `table` would.
    #[must_use]
    pub fn equals(&self, table: &Table, keys: u8) -> bool {
        self.cache.len() == table.len() as u64
            && (1..=keys).all(|key| self.who(key) == holder(table, key).map(UserId::from))
    }
}

/// The user that a key belongs to.
#[must_use]
pub fn holder(table: &Table, key: Key) -> Option<User> {
    table
        .iter()
        .find(|(_, row)| row.key == Some(key))
        .map(|(user, _)| *user)
}

/// The debug text with maps in order, and readings of the cache's clock as their ranks: all that the future
/// depends on, and nothing else.
fn canonical(debug: &str) -> String {
    let ranked = with_ranked_clock(debug);
    let mut sorted = String::with_capacity(ranked.len());
    sort_braces(&ranked, &mut 0, &mut sorted);
    sorted
}

const CLOCK_FIELDS: [&str; 4] = ["clock: ", "touched: ", "started: ", "need: Some(("];

fn with_ranked_clock(debug: &str) -> String {
    let mut places = Vec::new();
    for field in CLOCK_FIELDS {
        for (at, _) in debug.match_indices(field) {
            let mut from = at + field.len();
            from += debug[from..]
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(0);
            let digits = debug[from..]
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(debug.len() - from);
            let reading: u64 = debug[from..from + digits].parse().unwrap_or(0);
            places.push((from, digits, (field != "clock: ").then_some(reading)));
        }
    }
    places.sort_unstable();
    let mut readings: Vec<u64> = places.iter().filter_map(|place| place.2).collect();
    readings.sort_unstable();
    readings.dedup();
    let (mut text, mut done) = (String::with_capacity(debug.len()), 0);
    for (from, digits, reading) in places {
        text.push_str(&debug[done..from]);
        if let Some(rank) = reading.and_then(|reading| readings.binary_search(&reading).ok()) {
            text.push_str(&rank.to_string());
        }
        done = from + digits;
    }
    text.push_str(&debug[done..]);
    text
}

/// Copies up to the closing bracket, with what is in braces sorted.
fn sort_braces(text: &str, at: &mut usize, out: &mut String) {
    let bytes = text.as_bytes();
    while let Some(&byte) = bytes.get(*at) {
        *at += 1;
        match byte {
            b'{' => {
                let mut items = Vec::new();
                loop {
                    let mut item = String::new();
                    let more = sort_item(text, at, &mut item);
                    items.push(item);
                    if !more {
                        break;
                    }
                }
                items.sort_unstable();
                out.push('{');
                out.push_str(&items.join(","));
                out.push('}');
            }
            _ => out.push(char::from(byte)),
        }
    }
}

/// One item of a braced list; tells whether another follows.
fn sort_item(text: &str, at: &mut usize, out: &mut String) -> bool {
    let bytes = text.as_bytes();
    let (from, mut depth) = (*at, 0_u32);
    while let Some(&byte) = bytes.get(*at) {
        match byte {
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b',' if depth == 0 => break,
            b'}' | b']' | b')' => depth -= 1,
            _ => {}
        }
        *at += 1;
    }
    let more = bytes.get(*at) == Some(&b',');
    sort_braces(text[from..*at].trim(), &mut 0, out);
    *at += 1;
    more
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn states_that_differ_in_map_order_and_clock_only_are_one() {
        let one = "S { users: {1: E { touched: 7 }, 2: E { touched: 9 }}, clock: 12, need: Some((Gap, 9)) }";
        let two = "S { users: {2: E { touched: 4 }, 1: E { touched: 3 }}, clock: 5, need: Some((Gap, 4)) }";
        let other = "S { users: {2: E { touched: 4 }, 1: E { touched: 3 }}, clock: 5, need: Some((Gap, 3)) }";
        assert_eq!(
            canonical(one).replace(' ', ""),
            canonical(two).replace(' ', "")
        );
        assert_ne!(
            canonical(one).replace(' ', ""),
            canonical(other).replace(' ', "")
        );
    }
}
