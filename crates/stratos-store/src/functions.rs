//! Functions and their versions.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use stratos_types::{FunctionKey, TenantId, Version};

use crate::db::{Db, Fault};
use crate::error::StoreError;
use crate::record::{FunctionRecord, NewVersion, VersionRecord, function_key, parse_function_key};
use crate::row::{FunctionRow, VersionRow, decode, encode};
use crate::store::Store;

/// `TENANT/NAME` to [`FunctionRow`].
const FUNCTIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("functions");
/// `TENANT/NAME`, version to [`VersionRow`].
pub(crate) const VERSIONS: TableDefinition<'_, (&str, Version), &[u8]> = TableDefinition::new("versions");

/// Makes the tables that are not there, so that a reader never meets a missing one.
pub(crate) fn create_tables(db: &Db) -> Result<(), StoreError> {
    db.write(|tx| {
        tx.open_table(FUNCTIONS)?;
        tx.open_table(VERSIONS)?;
        crate::queue::create_tables(tx)
    })
}

impl Store {
    /// Every function of a tenant, by name.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn functions(&self, tenant: &TenantId) -> Result<Vec<FunctionRecord>, StoreError> {
        // '0' follows '/', so this range holds exactly the keys that start with `TENANT/`.
        let (from, to) = (format!("{tenant}/"), format!("{tenant}0"));
        self.0.db.read(|tx| {
            let functions = tx.open_table(FUNCTIONS)?;
            let versions = tx.open_table(VERSIONS)?;
            let mut found = Vec::new();
            for entry in functions.range(from.as_str()..to.as_str())? {
                let (key, row) = entry?;
                let parsed = parse_function_key(key.value())
                    .ok_or_else(|| Fault::Row(format!("key `{}` of table `functions`", key.value())))?;
                found.extend(assemble(&parsed, Some(row.value()), &versions)?);
            }
            Ok(found)
        })
    }

    /// One function; `None` when there is none of this name.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn function(&self, key: &FunctionKey) -> Result<Option<FunctionRecord>, StoreError> {
        self.0.db.read(|tx| {
            let functions = tx.open_table(FUNCTIONS)?;
            let row = functions.get(function_key(key).as_str())?;
            assemble(key, row.as_ref().map(|r| r.value()), &tx.open_table(VERSIONS)?)
        })
    }

    /// Stores a new version and makes it the current one, in one step. Its number is one more than the highest ever
    /// given to this name, also when versions were rolled back, pruned or the function was removed.
    ///
    /// # Errors
    /// When the state cannot be written; the old version is then still the current one.
    pub fn commit_version(&self, key: &FunctionKey, new: NewVersion) -> Result<VersionRecord, StoreError> {
        let mut record = VersionRecord::numbered(0, new);
        record.version = self.0.db.write(|tx| {
            let name = function_key(key);
            let version = 1 + match read_function(tx, &name)? {
                Some(FunctionRow::V1 { last, .. }) => last,
                None => 0,
            };
            let row = encode(&VersionRow::new(&record));
            tx.open_table(VERSIONS)?.insert((name.as_str(), version), row.as_slice())?;
            write_function(tx, &name, &FunctionRow::V1 { current: Some(version), last: version })?;
            Ok(version)
        })?;
        Ok(record)
    }

    /// Makes another stored version the current one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such function or version.
    pub fn set_current(&self, key: &FunctionKey, version: Version) -> Result<(), StoreError> {
        self.0.db.write(|tx| {
            let name = function_key(key);
            let missing = || StoreError::NotFound { what: format!("version {version} of function {key}") };
            let last = match read_function(tx, &name)? {
                Some(FunctionRow::V1 { current: Some(_), last }) => last,
                _ => return Err(StoreError::NotFound { what: format!("function {key}") }.into()),
            };
            if tx.open_table(VERSIONS)?.get((name.as_str(), version))?.is_none() {
                return Err(missing().into());
            }
            write_function(tx, &name, &FunctionRow::V1 { current: Some(version), last })
        })
    }

    /// Removes a function with all its versions; gives what was removed, `None` when there was none. Its images go
    /// with the next [`Blobs::collect_garbage`](crate::Blobs::collect_garbage).
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn remove(&self, key: &FunctionKey) -> Result<Option<FunctionRecord>, StoreError> {
        self.0.db.write(|tx| {
            let name = function_key(key);
            let Some(FunctionRow::V1 { current: Some(current), last }) = read_function(tx, &name)? else {
                return Ok(None);
            };
            let mut table = tx.open_table(VERSIONS)?;
            let versions = read_versions(&name, &table)?;
            for record in &versions {
                table.remove((name.as_str(), record.version))?;
            }
            drop(table);
            write_function(tx, &name, &FunctionRow::V1 { current: None, last })?;
            Ok(Some(FunctionRecord { key: key.clone(), current, versions }))
        })
    }

    /// Removes the oldest versions until `keep` are left, never the current one; gives what was removed.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn prune(&self, key: &FunctionKey, keep: usize) -> Result<Vec<VersionRecord>, StoreError> {
        self.0.db.write(|tx| {
            let name = function_key(key);
            let Some(FunctionRow::V1 { current: Some(current), .. }) = read_function(tx, &name)? else {
                return Ok(Vec::new());
            };
            let mut table = tx.open_table(VERSIONS)?;
            let versions = read_versions(&name, &table)?;
            let excess = versions.len().saturating_sub(keep);
            let old: Vec<_> = versions.into_iter().filter(|v| v.version != current).take(excess).collect();
            for record in &old {
                table.remove((name.as_str(), record.version))?;
            }
            Ok(old)
        })
    }
}

fn read_function(tx: &WriteTransaction, name: &str) -> Result<Option<FunctionRow>, Fault> {
    let table = tx.open_table(FUNCTIONS)?;
    let row = table.get(name)?;
    row.map(|row| decode("functions", name, row.value()).map_err(Fault::Row)).transpose()
}

fn write_function(tx: &WriteTransaction, name: &str, row: &FunctionRow) -> Result<(), Fault> {
    tx.open_table(FUNCTIONS)?.insert(name, encode(row).as_slice())?;
    Ok(())
}

fn read_versions(
    name: &str,
    versions: &impl ReadableTable<(&'static str, Version), &'static [u8]>,
) -> Result<Vec<VersionRecord>, Fault> {
    let mut found = Vec::new();
    for entry in versions.range((name, 0)..=(name, Version::MAX))? {
        let (key, row) = entry?;
        let version = key.value().1;
        let row: VersionRow = decode("versions", name, row.value()).map_err(Fault::Row)?;
        found.push(row.into_record(version));
    }
    Ok(found)
}

/// The record of a function's row; `None` for one that was removed.
fn assemble(
    key: &FunctionKey,
    row: Option<&[u8]>,
    versions: &impl ReadableTable<(&'static str, Version), &'static [u8]>,
) -> Result<Option<FunctionRecord>, Fault> {
    let name = function_key(key);
    let row = row.map(|row| decode("functions", &name, row)).transpose().map_err(Fault::Row)?;
    let Some(FunctionRow::V1 { current: Some(current), .. }) = row else { return Ok(None) };
    let record = FunctionRecord { key: key.clone(), current, versions: read_versions(&name, versions)? };
    if record.version(current).is_none() {
        return Err(Fault::Row(format!("function `{name}` has no version {current}")));
    }
    Ok(Some(record))
}
