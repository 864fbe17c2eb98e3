//! CBOR as it is told to write it, in good order or bad.
//!
//! *Takes* items. *Gives* bytes. *Denies* nothing. *Source*: RFC 8949 §3, §4.2.1.

/// An item. A map stands in the order given; [`sorted`] puts it into the deterministic one.
#[derive(Clone)]
pub enum Item {
    Unsigned(u64),
    /// −1 − n.
    Negative(u64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    Tag(u64, Box<Item>),
}

pub fn text(text: &str) -> Item {
    Item::Text(text.to_owned())
}

/// A map, its keys ascending by their encoded bytes.
pub fn sorted(mut entries: Vec<(Item, Item)>) -> Item {
    entries.sort_by_key(|(key, _)| encode(key));
    Item::Map(entries)
}

pub fn encode(item: &Item) -> Vec<u8> {
    match item {
        Item::Unsigned(n) => head(0, *n),
        Item::Negative(n) => head(1, *n),
        Item::Bytes(bytes) => [head(2, length(bytes.len())), bytes.clone()].concat(),
        Item::Text(text) => [head(3, length(text.len())), text.as_bytes().to_vec()].concat(),
        Item::Array(items) => {
            let parts: Vec<u8> = items.iter().flat_map(encode).collect();
            [head(4, length(items.len())), parts].concat()
        }
        Item::Map(entries) => {
            let parts: Vec<u8> = entries.iter().flat_map(|(k, v)| [encode(k), encode(v)].concat()).collect();
            [head(5, length(entries.len())), parts].concat()
        }
        Item::Tag(tag, item) => [head(6, *tag), encode(item)].concat(),
    }
}

fn length(n: usize) -> u64 {
    u64::try_from(n).unwrap()
}

fn head(major: u8, n: u64) -> Vec<u8> {
    let (bytes, major) = (n.to_be_bytes(), major << 5);
    match n {
        0..=23 => vec![major | bytes[7]],
        24..=0xff => vec![major | 24, bytes[7]],
        0x100..=0xffff => [&[major | 25], &bytes[6..]].concat(),
        0x1_0000..=0xffff_ffff => [&[major | 26], &bytes[4..]].concat(),
        _ => [&[major | 27], &bytes[..]].concat(),
    }
}
