//! Function artifacts and their keys.

use std::io::Cursor;

use stratos_artifact::{HEADER_BYTES, Head, Manifest, PublicKey, SIGNATURE_BYTES, SecretKey, Signature};

/// Header, manifest, sections and signature: what is accepted means the same when it is written and read again, and lies
/// inside the file. A digest that does not fit would keep mutations from the parser, so it is made right.
pub fn artifact(input: &[u8]) {
    whole(input);
    if let Some(repaired) = with_its_digest(input) {
        whole(&repaired);
    }
    if let Ok(manifest) = Manifest::parse(input) {
        let written = serde_json::to_vec(&manifest).expect("what was read can be written");
        assert_eq!(Manifest::parse(&written).expect("and read again"), manifest);
        assert!(!manifest.runtime.name.contains('/') && !manifest.function.contains('/'));
    }
    if let Some(block) = input.first_chunk::<SIGNATURE_BYTES>()
        && let Ok(signature) = Signature::decode(block)
    {
        assert_eq!(signature.encode(), *block);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(key) = PublicKey::from_pem(text) {
            assert_eq!(PublicKey::from_pem(&key.to_pem()).expect("it is read again"), key);
        }
        if let Ok(key) = SecretKey::from_pem(text) {
            assert_eq!(key.public().id().to_string().len(), 16);
        }
    }
}

fn whole(input: &[u8]) {
    let bytes = input.len() as u64;
    let mut reader = Cursor::new(input);
    let Ok(head) = Head::read(&mut reader, bytes) else { return };
    assert!(head.manifest.sections().all(|(_, section, _)| section <= bytes));
    if head.verify(&mut reader).is_ok() {
        // All was read but the signature.
        let left = bytes - reader.position();
        assert!(left == 0 || left == SIGNATURE_BYTES as u64, "{left}");
    }
}

/// The same input with the manifest's digest in its header.
fn with_its_digest(input: &[u8]) -> Option<Vec<u8>> {
    use sha2::{Digest as _, Sha256};
    let manifest = usize::try_from(u64::from_le_bytes(*input.get(16..)?.first_chunk()?)).ok()?;
    let manifest = input.get(HEADER_BYTES..HEADER_BYTES.checked_add(manifest)?)?;
    let digest = Sha256::digest(manifest);
    let mut repaired = input.to_vec();
    repaired[40..72].copy_from_slice(&digest);
    Some(repaired)
}
