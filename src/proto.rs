//! The generated messages of the wire contract (`proto/`), and nothing else.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated from proto/")]

/// How they are encoded.
pub mod codec;

/// `portcullis.v1`: the release protocol and the node's attester.
pub mod v1 {
    tonic::include_proto!("portcullis.v1");
}

/// `portcullis.admin.v1`: the operators' API.
#[cfg(feature = "server")]
pub mod admin {
    tonic::include_proto!("portcullis.admin.v1");
}
