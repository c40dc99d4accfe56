//! The root as an OCI image (image specification 1.1, "Image Layout"): one layer, for those who run StratOS's agent in
//! containers or keep images in registries.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use stratos_types::Digest;

use crate::error::{FileError, at};
use crate::tree::Tree;
use crate::{arch, erofs};

/// The earliest time there is: an image has no time of its own.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// Writes the image layout into the new folder `to`.
pub(crate) fn write(tree: &Tree, to: &Path, version: &str) -> Result<(), FileError> {
    let blobs = to.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(at("create", &blobs))?;
    let (layer, diff_id) = layer(tree, &blobs)?;
    let config = blob(
        &blobs,
        "application/vnd.oci.image.config.v1+json",
        &json!({
            "created": EPOCH,
            "architecture": arch::debian(),
            "os": "linux",
            "config": {
                "Entrypoint": ["/usr/bin/stratosd"],
                "Labels": {
                    "org.opencontainers.image.title": "StratOS",
                    "org.opencontainers.image.description": "The verified root of StratOS",
                    "org.opencontainers.image.version": version,
                    "org.opencontainers.image.licenses": "Apache-2.0",
                },
            },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "history": [{ "created": EPOCH, "created_by": "stratos image build" }],
        }),
    )?;
    let mut manifest = blob(
        &blobs,
        "application/vnd.oci.image.manifest.v1+json",
        &json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": [layer],
        }),
    )?;
    manifest["platform"] = json!({ "architecture": arch::debian(), "os": "linux" });
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": version });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    for (name, value) in [("index.json", index), ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))] {
        let file = to.join(name);
        std::fs::write(&file, value.to_string()).map_err(at("write", &file))?;
    }
    Ok(())
}

/// Writes the tree as the layer's blob, and gives its descriptor and the digest of what is in it unpacked.
fn layer(tree: &Tree, blobs: &Path) -> Result<(Value, Digest), FileError> {
    let temp = blobs.join("layer");
    let file = File::create_new(&temp).map_err(at("create", &temp))?;
    let unpacked = tempfile::tempfile_in(blobs).map_err(at("create a file in", blobs))?;
    let written = (|| {
        erofs::stream(tree, BufWriter::with_capacity(1 << 20, &unpacked))?;
        io::Seek::rewind(&mut &unpacked)?;
        let diff_id = Digest::of_reader(&unpacked)?;
        io::Seek::rewind(&mut &unpacked)?;
        let mut packed = GzBuilder::new().mtime(0).write(BufWriter::new(file), Compression::best());
        io::copy(&mut &unpacked, &mut packed)?;
        packed.finish()?.flush()?;
        let digest = Digest::of_reader(File::open(&temp)?)?;
        Ok((diff_id, digest, std::fs::metadata(&temp)?.len()))
    })();
    let (diff_id, digest, size) = written.map_err(at("write", &temp))?;
    std::fs::rename(&temp, blobs.join(digest.hex())).map_err(at("rename", &temp))?;
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    Ok((json!({ "mediaType": kind, "digest": digest, "size": size }), diff_id))
}

/// Writes a JSON blob and gives its descriptor.
fn blob(blobs: &Path, kind: &str, value: &Value) -> Result<Value, FileError> {
    let bytes = value.to_string();
    let digest = Digest::of(bytes.as_bytes());
    let file = blobs.join(digest.hex());
    std::fs::write(&file, &bytes).map_err(at("write", &file))?;
    Ok(json!({ "mediaType": kind, "digest": digest, "size": bytes.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_lead_from_the_index_to_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(folder.path().join("tree")).unwrap();
        tree.file("usr/bin/stratosd", true, &b"program"[..], "stratos").unwrap();
        let to = folder.path().join("oci");
        write(&tree, &to, "0.1.0").unwrap();
        let read = |descriptor: &Value| {
            let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
            let bytes = std::fs::read(to.join("blobs/sha256").join(digest.hex())).unwrap();
            assert_eq!(Digest::of(&bytes), digest);
            assert_eq!(descriptor["size"], bytes.len());
            bytes
        };
        let index: Value = serde_json::from_slice(&std::fs::read(to.join("index.json")).unwrap()).unwrap();
        let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&read(&manifest["config"])).unwrap();
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.version"], "0.1.0");
        let mut unpacked = Vec::new();
        let layer = read(&manifest["layers"][0]);
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&layer[..]), &mut unpacked).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], Digest::of(&unpacked).to_string());
        let mut archive = tar::Archive::new(&unpacked[..]);
        let paths: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert!(paths.contains(&"usr/bin/stratosd".to_owned()), "{paths:?}");
        assert_eq!(std::fs::read_dir(to.join("blobs/sha256")).unwrap().count(), 3, "nothing is left over");
    }
}
