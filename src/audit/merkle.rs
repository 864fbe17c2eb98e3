//! The Merkle tree over the log's records, kept as its frontier: append-only, 32 bytes a level.
//!
//! *Takes* leaf hashes in order. *Gives* the tree's root at every size. *Denies* nothing itself.
//! *Source*: RFC 6962 §2.1.

use aws_lc_rs::digest::{Context, SHA256};
use std::fmt;

/// A SHA-256 hash, of a leaf, an inner node or a whole tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The tree at one size, as the roots of its complete subtrees, largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    frontier: Vec<Hash>,
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Self {
        Tree { size: 0, frontier: Vec::new() }
    }

    /// A tree from what a segment header keeps; none where the frontier is not one of a tree of that size.
    pub fn from_frontier(size: u64, frontier: Vec<Hash>) -> Option<Self> {
        let subtrees = usize::try_from(size.count_ones()).ok()?;
        (frontier.len() == subtrees).then_some(Tree { size, frontier })
    }

    /// Adds a leaf. Each trailing one bit of the size is a complete subtree as large as the new one: they merge.
    pub fn push(&mut self, leaf: Hash) {
        let mut subtree = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.frontier.pop() {
                subtree = node(left, subtree);
            }
        }
        self.frontier.push(subtree);
        self.size = self.size.saturating_add(1);
    }

    /// Leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of its complete subtrees, largest first.
    pub fn frontier(&self) -> &[Hash] {
        &self.frontier
    }

    /// The Merkle tree hash.
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.frontier.iter().rev();
        match smallest_first.next() {
            None => hash(&[]),
            Some(smallest) => smallest_first.fold(*smallest, |right, left| node(*left, right)),
        }
    }
}

impl Default for Tree {
    fn default() -> Self {
        Tree::new()
    }
}

/// The hash of a leaf whose data is the parts, joined.
pub fn leaf(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0x00]);
    parts.iter().for_each(|part| context.update(part));
    finish(context)
}

fn node(left: Hash, right: Hash) -> Hash {
    hash(&[&[0x01], &left.0, &right.0])
}

/// Plain SHA-256 of the parts, joined.
pub fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    finish(context)
}

fn finish(context: Context) -> Hash {
    let mut hash = [0; 32];
    hash.iter_mut().zip(context.finish().as_ref()).for_each(|(into, byte)| *into = *byte);
    Hash(hash)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The definition of RFC 6962 §2.1, word for word and slow: what the frontier is held against.
    pub fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => hash(&[]),
            1 => leaves[0],
            count => {
                let split = count.next_power_of_two() / 2;
                hash(&[&[1], &by_definition(&leaves[..split]).0, &by_definition(&leaves[split..]).0])
            }
        }
    }

    /// The inputs and roots that the Certificate Transparency project publishes for its Merkle trees.
    const INPUTS: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    #[test]
    fn published_roots_are_met() {
        let mut tree = Tree::new();
        assert_eq!(
            tree.root().to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        for (input, root) in INPUTS.iter().zip(ROOTS) {
            tree.push(leaf(&[&hex::decode(input).unwrap()]));
            assert_eq!(tree.root().to_string(), root);
        }
    }

    #[test]
    fn every_size_meets_the_definition_and_survives_its_frontier() {
        let leaves: Vec<Hash> = (0..130u8).map(|index| leaf(&[&[index]])).collect();
        let mut tree = Tree::new();
        for size in 1..=leaves.len() {
            tree.push(leaves[size - 1]);
            assert_eq!(tree.root(), by_definition(&leaves[..size]), "size {size}");
            tree = Tree::from_frontier(tree.size(), tree.frontier().to_vec()).unwrap();
        }
        assert_eq!(Tree::from_frontier(3, vec![leaves[0]]), None);
    }
}
