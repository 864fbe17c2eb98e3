//! Compiles the wire contract with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/portcullis/v1/broker.proto",
        "proto/portcullis/v1/attester.proto",
        "proto/portcullis/v1/tpm2.proto",
        "proto/portcullis/admin/v1/admin.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .codec_path("crate::proto::codec::SmallCodec")
        // The messages that carry a value to be stored, or a share: their `Debug` is written by hand and shows none.
        .skip_debug([".portcullis.admin.v1.PutSecretRequest"])
        .skip_debug([".portcullis.admin.v1.UnsealRequest", ".portcullis.admin.v1.ConfirmRekeyRequest"])
        // The command line prints answers as JSON, keys in one order.
        .type_attribute(".portcullis.admin.v1", "#[derive(serde::Serialize)]")
        .field_attribute(".portcullis.admin.v1.PutSecretRequest.fields", "#[serde(skip)]")
        .btree_map(".portcullis.admin.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
