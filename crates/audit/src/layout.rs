use crate::merkle::{Hash, WIDTH};

/// What a file under `tile/` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Entries.
    Entries,
    /// Hashes of the tree, of a level.
    Hashes(u8),
}

/// The name of one file under `tile/` (<https://c2sp.org/tlog-tiles>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Tile {
    pub(crate) kind: Kind,
    pub(crate) index: u64,
    /// 1 to 256; below 256 it is a partial tile.
    pub(crate) width: u16,
}

impl Tile {
    pub(crate) const fn full(kind: Kind, index: u64) -> Self {
        Self { kind, index, width: 256 }
    }

    /// The tile of level `level` (or the bundle) at the right edge of a tree of `size`, unless it is empty.
    pub(crate) fn partial(kind: Kind, size: u64) -> Option<Self> {
        let hashes = size / span(kind)?;
        let width = u16::try_from(hashes % WIDTH).unwrap_or(0);
        (width > 0).then_some(Self { kind, index: hashes / WIDTH, width })
    }

    /// The partial tiles of a tree of `size`, its bundle first.
    pub(crate) fn partials(size: u64) -> impl Iterator<Item = Self> {
        std::iter::once(Kind::Entries)
            .chain((0..8).map(Kind::Hashes))
            .filter_map(move |kind| Self::partial(kind, size))
    }

    pub(crate) const fn is_full(self) -> bool {
        self.width == 256
    }

    /// The number of entries that a tree must have to hold this tile; `None` if no tree can.
    pub(crate) fn end(self) -> Option<u64> {
        self.index.checked_mul(WIDTH)?.checked_add(u64::from(self.width))?.checked_mul(span(self.kind)?)
    }

    /// The path below the log's directory.
    pub(crate) fn path(self) -> String {
        let kind = match self.kind {
            Kind::Entries => "entries".to_owned(),
            Kind::Hashes(level) => level.to_string(),
        };
        let mut number = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1000);
            rest /= 1000;
        }
        let width = if self.is_full() { String::new() } else { format!(".p/{}", self.width) };
        format!("tile/{kind}/{number}{width}")
    }

    /// Reads a path; only what [`Tile::path`] would write is one.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match kind {
            "entries" => Kind::Entries,
            level => Kind::Hashes(level.parse().ok()?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|width| *width < 256)?),
            None => (rest, 256),
        };
        let mut index = 0_u64;
        for part in number.split('/') {
            let digits = part.strip_prefix('x').unwrap_or(part);
            index = index.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        }
        let tile = Self { kind, index, width };
        (width > 0 && tile.path() == path).then_some(tile)
    }
}

/// Entries below one hash (or one entry) of a tile; `None` beyond what 64 bits count.
fn span(kind: Kind) -> Option<u64> {
    match kind {
        Kind::Entries => Some(1),
        Kind::Hashes(level) => WIDTH.checked_pow(u32::from(level)),
    }
}

/// Adds an entry to a bundle: its length in two bytes, big-endian, and itself. `None` if it is too long.
pub(crate) fn put_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    bundle.extend_from_slice(&u16::try_from(entry.len()).ok()?.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// Takes one entry off the front.
pub(crate) fn take_entry(bundle: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bundle.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The entries of a bundle of `width`: exactly so many, and nothing after them.
pub(crate) fn entries(mut bundle: &[u8], width: u64) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    for _ in 0..width {
        let (entry, rest) = take_entry(bundle)?;
        entries.push(entry);
        bundle = rest;
    }
    bundle.is_empty().then_some(entries)
}

/// The hashes of a tile: exactly `width`.
pub(crate) fn hashes(tile: &[u8], width: u64) -> Option<Vec<Hash>> {
    let (hashes, rest) = tile.as_chunks::<32>();
    (rest.is_empty() && hashes.len() as u64 == width).then(|| hashes.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |kind, index, width| Tile { kind, index, width }.path();
        assert_eq!(path(Kind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(path(Kind::Entries, 0, 256), "tile/entries/000");
        assert_eq!(path(Kind::Hashes(1), 1000, 17), "tile/1/x001/000.p/17");
        for bad in [
            "tile/0/067/x001",
            "tile/00/000",
            "tile/0/0",
            "tile/0/x000/001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/+01",
            "tile/0/1000",
            "tile/x/000",
            "tile/0/000.p/1/2",
            "tile/0/",
            "/tile/0/000",
        ] {
            assert_eq!(Tile::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn partial_tiles_are_those_of_the_specification() {
        // "A tree of size 70,000 will be represented by 273 full level 0 tiles, one partial level 0 tile of width
        // 112, one full level 1 tile, one partial level 1 tile of width 17, and one partial level 2 tile of width 1."
        let found: Vec<String> = Tile::partials(70_000).map(Tile::path).collect();
        assert_eq!(
            found,
            ["tile/entries/273.p/112", "tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1"]
        );
        assert_eq!(Tile::partials(256).map(Tile::path).collect::<Vec<_>>(), ["tile/1/000.p/1"]);
        assert_eq!(Tile::partials(0).count(), 0);
    }

    proptest! {
        #[test]
        fn paths_are_read_back(level in proptest::option::of(0_u8..9), index in 0_u64..1 << 50, width in 1_u16..=256) {
            let tile = Tile { kind: level.map_or(Kind::Entries, Kind::Hashes), index, width };
            prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
        }

        #[test]
        fn no_path_or_bundle_panics(path in "(tile/)?[0-9x/.pentris]{0,30}", bundle in proptest::collection::vec(any::<u8>(), 0..99), width in 0_u64..9) {
            if let Some(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
                let _ = tile.end();
            }
            if let Some(found) = entries(&bundle, width) {
                let mut again = Vec::new();
                for entry in found {
                    put_entry(&mut again, entry).unwrap();
                }
                prop_assert_eq!(again, bundle);
            }
        }
    }
}
