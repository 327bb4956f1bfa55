use aws_lc_rs::digest::{Context, SHA256, digest};

/// A node of the tree.
pub(crate) type Hash = [u8; 32];

/// Hashes in a full tile, and entries in a full bundle.
pub(crate) const WIDTH: u64 = 256;

/// The hash of an entry (RFC 6962, section 2.1).
pub(crate) fn leaf(entry: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0]);
    context.update(entry);
    hash(context.finish().as_ref())
}

/// The hash of the tree over `nodes`, each the root of a complete tree of one size, but the last, which may be the
/// root of a smaller tree (RFC 6962, section 2.1: split at the largest power of two below the count).
pub(crate) fn root_of(nodes: &[Hash]) -> Hash {
    match nodes {
        [] => hash(digest(&SHA256, b"").as_ref()),
        [only] => *only,
        _ => {
            let (left, right) = nodes.split_at(nodes.len().div_ceil(2).next_power_of_two());
            node(&root_of(left), &root_of(right))
        }
    }
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut message = [1; 65];
    let (first, second) = message[1..].split_at_mut(32);
    first.copy_from_slice(left);
    second.copy_from_slice(right);
    hash(digest(&SHA256, &message).as_ref())
}

fn hash(digest: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest);
    hash
}

/// The right edge of the tree: at each level the hashes of the tile that is not full yet. From it follows all that is
/// needed to add entries and to name the root.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    size: u64,
    edge: Vec<Vec<Hash>>,
    /// The roots of the complete trees that the size is the sum of, largest first: what the root takes to name.
    peaks: Vec<Hash>,
}

impl Tree {
    /// The tree of `size` entries, from the hashes of its partial tiles, lowest level first.
    pub(crate) fn new(size: u64, edge: Vec<Vec<Hash>>) -> Self {
        let mut peaks = Vec::new();
        for tile in edge.iter().rev() {
            let mut rest = tile.as_slice();
            while !rest.is_empty() {
                let (complete, after) = rest.split_at(1 << rest.len().ilog2());
                peaks.push(root_of(complete));
                rest = after;
            }
        }
        Self { size, edge, peaks }
    }

    /// The number of entries.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the partial tiles, lowest level first; some may be empty.
    pub(crate) fn edge(&self) -> &[Vec<Hash>] {
        &self.edge
    }

    /// Adds an entry's hash; tells `complete` the level, index and hashes of each tile that became full.
    pub(crate) fn push(&mut self, leaf: Hash, mut complete: impl FnMut(u8, u64, &[Hash])) {
        self.size += 1;
        let mut peak = leaf;
        for _ in 0..self.size.trailing_zeros() {
            peak = self.peaks.pop().map_or(peak, |left| node(&left, &peak));
        }
        self.peaks.push(peak);
        let mut hash = leaf;
        let mut tiles = self.size;
        for level in 0_u8.. {
            if self.edge.len() <= usize::from(level) {
                self.edge.push(Vec::new());
            }
            let Some(tile) = self.edge.get_mut(usize::from(level)) else { return };
            tile.push(hash);
            tiles /= WIDTH;
            if (tile.len() as u64) < WIDTH {
                return;
            }
            complete(level, tiles - 1, tile);
            hash = root_of(tile);
            tile.clear();
        }
    }

    /// The root (RFC 6962's Merkle Tree Hash of all entries).
    pub(crate) fn root(&self) -> Hash {
        let peaks = self.peaks.iter().rev().copied();
        peaks.reduce(|right, left| node(&left, &right)).unwrap_or_else(|| root_of(&[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of the reference implementation of RFC 6962 (certificate-transparency,
    /// `merkletree/merkle_tree_test.cc`).
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap()).collect()
    }

    /// RFC 6962's definition, word for word.
    fn definition(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 | 1 => root_of(leaves),
            count => {
                let mut half = 1;
                while half * 2 < count {
                    half *= 2;
                }
                node(&definition(&leaves[..half]), &definition(&leaves[half..]))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_reference() {
        let mut tree = Tree::default();
        assert_eq!(tree.root().to_vec(), unhex(ROOTS[0]));
        for (text, root) in LEAVES.iter().zip(&ROOTS[1..]) {
            tree.push(leaf(&unhex(text)), |_, _, _| {});
            assert_eq!(tree.root().to_vec(), unhex(root));
        }
    }

    #[test]
    fn the_edge_gives_the_root_of_the_definition_at_every_size() {
        let mut tree = Tree::default();
        let mut leaves = Vec::new();
        let mut full = Vec::new();
        for number in 0..67_000_u32 {
            leaves.push(leaf(&number.to_be_bytes()));
            tree.push(leaves[leaves.len() - 1], |level, index, hashes| {
                full.push((level, index, hashes.len()))
            });
            if number < 600 || number % 1021 == 0 || (65_530..65_545).contains(&number) {
                assert_eq!(tree.root(), definition(&leaves), "{number}");
                assert_eq!(Tree::new(tree.size(), tree.edge().to_vec()).root(), tree.root(), "{number}");
            }
        }
        assert_eq!(full.iter().filter(|tile| tile.0 == 0).count(), 261);
        assert_eq!(full.iter().filter(|tile| tile.0 == 1).collect::<Vec<_>>(), [&(1, 0, 256)]);
        assert!(full.contains(&(0, 260, 256)));
    }
}
