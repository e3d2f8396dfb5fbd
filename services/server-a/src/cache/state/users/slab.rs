//! Values in numbered places that never move: growing copies nothing and leaves no room unused.

/// Bytes of one piece of memory at most. What lies right below a power of two mimalloc keeps without loss; else it rounds up, by
/// up to a sixth.
const PIECE: usize = 64 * 1024;

/// Values by the number of their place.
#[derive(Debug, Clone)]
pub(super) struct Slab<T> {
    /// All full but the last. In a free place is nothing.
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Places of one piece of memory.
    const CHUNK: usize = if cfg!(test) {
        64
    } else {
        PIECE / size_of::<Option<T>>()
    };

    /// Puts a value into a free place.
    ///
    /// # Panics
    /// Beyond 2^32 values, which no machine of today has the memory for.
    pub fn insert(&mut self, value: T) -> u32 {
        if let Some(place) = self.free.pop() {
            *self.place_mut(place) = Some(value);
            return place;
        }
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() == Self::CHUNK)
        {
            self.chunks.push(Vec::with_capacity(Self::CHUNK));
        }
        let last = self.chunks.len() - 1;
        let chunk = &mut self.chunks[last];
        chunk.push(Some(value));
        u32::try_from(last * Self::CHUNK + chunk.len() - 1).expect("fewer than 2^32 users")
    }

    /// Empties a place.
    pub fn remove(&mut self, place: u32) -> Option<T> {
        let value = self.place_mut(place).take();
        if value.is_some() {
            self.free.push(place);
        }
        value
    }

    pub fn get(&self, place: u32) -> Option<&T> {
        let place = place as usize;
        self.chunks[place / Self::CHUNK][place % Self::CHUNK].as_ref()
    }

    pub fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.place_mut(place).as_mut()
    }

    /// The values in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }

    /// Bytes of all places that have ever been used.
    pub fn memory_bytes(&self) -> usize {
        let before = self.chunks.len().saturating_sub(1) * Self::CHUNK;
        let places = before + self.chunks.last().map_or(0, Vec::len);
        places * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }

    fn place_mut(&mut self, place: u32) -> &mut Option<T> {
        let place = place as usize;
        &mut self.chunks[place / Self::CHUNK][place % Self::CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a map from place to value: inserts (`None`) and removals of the n-th value there is.
        #[test]
        fn a_slab_holds_what_a_map_holds(
            steps in prop::collection::vec(prop::option::weighted(0.3, any::<prop::sample::Index>()), 1..4_000),
        ) {
            let (mut slab, mut map, mut places) = (Slab::default(), HashMap::new(), Vec::new());
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    Some(index) if !places.is_empty() => {
                        let place = places.swap_remove(index.index(places.len()));
                        prop_assert_eq!(slab.remove(place), map.remove(&place));
                        prop_assert_eq!(slab.get(place), None);
                        prop_assert_eq!(slab.remove(place), None);
                    }
                    _ => {
                        let place = slab.insert(value);
                        prop_assert_eq!(map.insert(place, value), None, "the place was taken");
                        places.push(place);
                    }
                }
            }
            for (place, value) in &map {
                prop_assert_eq!(slab.get(*place), Some(value));
            }
            let (mut held, mut expected): (Vec<_>, Vec<_>) = (slab.iter().collect(), map.values().collect());
            held.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(held, expected);
        }
    }
}
