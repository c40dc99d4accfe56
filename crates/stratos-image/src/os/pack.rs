//! The layers partition: all runtime layers one behind the other, each with its hash tree.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use stratos_types::{Digest, LayerManifest, PackedLayer};

use super::gpt::ALIGNMENT;
use super::seed::Seed;
use super::verity::{BLOCK, Verity};
use crate::error::{FileError, at};

/// Writes the pack, and gives the manifests with each layer's place in it. `folder` holds the layers' images.
pub(crate) fn write(
    pack: &Path,
    folder: &Path,
    layers: &[LayerManifest],
) -> Result<Vec<LayerManifest>, FileError> {
    let mut out = File::create_new(pack).map_err(at("create", pack))?;
    let mut packed = Vec::new();
    let mut offset = 0;
    for layer in layers {
        let image = folder.join(&layer.image);
        check(&image, layer).map_err(at("pack", &image))?;
        let place = append(&mut out, offset, &image, layer.inputs_digest).map_err(at("pack", &image))?;
        offset = (offset + place.length).next_multiple_of(ALIGNMENT);
        packed.push(LayerManifest { packed: Some(place), ..layer.clone() });
    }
    out.set_len(offset).map_err(at("extend", pack))?;
    out.sync_all().map_err(at("sync", pack))?;
    Ok(packed)
}

/// Every node will take the image's bytes for verified, so they have to be those that were built.
fn check(image: &Path, layer: &LayerManifest) -> io::Result<()> {
    let digest = Digest::of_reader(File::open(image)?)?;
    if digest == layer.image_digest {
        return Ok(());
    }
    let problem = "it was changed since it was built; remove it and build again";
    Err(io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// Writes one image at `offset`, zeros up to the next block, and its hash tree. `identity` seeds salt and UUID, so
/// that a layer's root hash changes with the layer only.
pub(crate) fn append(out: &mut File, offset: u64, image: &Path, identity: Digest) -> io::Result<PackedLayer> {
    let seed = Seed::new(identity);
    let verity = Verity::of(File::open(image)?, seed.bytes("verity salt"), seed.uuid("verity").0)?;
    out.seek(SeekFrom::Start(offset))?;
    let size = io::copy(&mut File::open(image)?, out)?;
    let hash_offset = size.next_multiple_of(BLOCK as u64);
    out.seek(SeekFrom::Start(offset + hash_offset))?;
    let mut writer = BufWriter::with_capacity(1 << 20, &mut *out);
    verity.write(&mut writer)?;
    writer.flush()?;
    Ok(PackedLayer { offset, length: hash_offset + verity.size(), hash_offset, root_hash: verity.root() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, content: &[u8], folder: &Path) -> LayerManifest {
        let image = format!("{name}.erofs");
        std::fs::write(folder.join(&image), content).unwrap();
        LayerManifest {
            name: name.to_owned(),
            version: "1".to_owned(),
            inputs_digest: Digest::of(name.as_bytes()),
            image,
            image_digest: Digest::of(content),
            size: content.len() as u64,
            packed: None,
        }
    }

    #[test]
    fn a_layer_that_was_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let one = layer("one", &[1; BLOCK], folder.path());
        std::fs::write(folder.path().join(&one.image), [2; BLOCK]).unwrap();
        let error = write(&folder.path().join("pack"), folder.path(), &[one]).unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("remove it"), "{error}");
    }

    #[test]
    fn layers_begin_at_whole_mebibytes_with_their_trees_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let one = layer("one", &[1; 3 * BLOCK + 7], folder.path());
        let two = layer("two", &[2; BLOCK], folder.path());
        let pack = folder.path().join("layers.pack");
        let packed = write(&pack, folder.path(), &[one, two.clone()]).unwrap();
        let bytes = std::fs::read(&pack).unwrap();
        assert_eq!(bytes.len() as u64, 2 * ALIGNMENT);
        let place = |n: usize| packed[n].packed.clone().unwrap();
        let (first, second) = (place(0), place(1));
        assert_eq!((first.offset, first.hash_offset), (0, 4 * BLOCK as u64));
        // Superblock and one block of hashes; one block of data needs no tree.
        assert_eq!(first.length, 6 * BLOCK as u64);
        assert_eq!((second.offset, second.hash_offset, second.length), (ALIGNMENT, 4096, 8192));
        assert_eq!(&bytes[4 * BLOCK..4 * BLOCK + 8], b"verity\0\0");
        assert!(bytes[3 * BLOCK + 7..4 * BLOCK].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[ALIGNMENT as usize], 2);
        // Alone in a pack, a layer has the same root hash.
        let alone = folder.path().join("alone.pack");
        let alone = write(&alone, folder.path(), &[two]).unwrap();
        assert_eq!(alone[0].packed.as_ref().unwrap().root_hash, second.root_hash);
    }
}
