//! The queue of asynchronous invocations: what changes it, in which tables it stands, how it is read.
//!
//! An invocation is in exactly one of `due`, `running`, `succeeded` and `dead`, by its state; every change moves it
//! within one transaction.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use stratos_types::{FunctionKey, InvocationId, TenantId};

use crate::db::Fault;
use crate::error::StoreError;
use crate::record::{AsyncRecord, AsyncRequest, async_key, function_key};
use crate::row::{AsyncRow, AsyncV1, StateRow, decode, encode};
use crate::store::Store;
use crate::writer::Done;

/// `TENANT/ID` to [`AsyncRow`].
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("async");
/// `TENANT/ID` to the payload, as it came.
const PAYLOADS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("async_payloads");
/// Time and `TENANT/ID` of what waits.
const DUE: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("async_due");
/// `TENANT/ID` of what runs.
const RUNNING: TableDefinition<'_, &str, ()> = TableDefinition::new("async_running");
/// Order of success to `TENANT/ID`.
const SUCCEEDED: TableDefinition<'_, u64, &str> = TableDefinition::new("async_succeeded");
/// `TENANT/NAME`, time of acceptance and `TENANT/ID` of what is dead.
const DEAD: TableDefinition<'_, (&str, u64, &str), ()> = TableDefinition::new("async_dead");

/// Records of successes that are kept.
const KEEP_SUCCEEDED: u64 = 10_000;

pub(crate) fn create_tables(tx: &WriteTransaction) -> Result<(), Fault> {
    tx.open_table(RECORDS)?;
    tx.open_table(PAYLOADS)?;
    tx.open_table(DUE)?;
    tx.open_table(RUNNING)?;
    tx.open_table(SUCCEEDED)?;
    tx.open_table(DEAD)?;
    Ok(())
}

/// One change of the queue, applied by the writer thread.
#[derive(Debug)]
pub(crate) enum Change {
    Enqueue(Box<AsyncRequest>),
    Step { key: String, step: Step },
}

/// One step in the life of a stored invocation.
#[derive(Debug)]
pub(crate) enum Step {
    Begin,
    RetryAt { when_ms: u64, error: String },
    PutBack { when_ms: u64 },
    Succeed,
    Bury { error: String },
    Requeue,
    Forget,
}

impl Change {
    fn step(tenant: &TenantId, id: InvocationId, step: Step) -> Self {
        Self::Step { key: async_key(tenant, id), step }
    }

    pub(crate) fn payload_len(&self) -> usize {
        match self {
            Self::Enqueue(request) => request.payload.len(),
            Self::Step { .. } => 0,
        }
    }

    /// Applies the change. The inner error is this change's own and leaves nothing behind; the outer one is the
    /// database's and ends the transaction.
    pub(crate) fn apply(&self, tx: &WriteTransaction) -> Result<Result<(), StoreError>, Fault> {
        let applied = match self {
            Self::Enqueue(request) => enqueue(tx, request),
            Self::Step { key, step } => take_step(tx, key, step),
        };
        match applied {
            Ok(()) => Ok(Ok(())),
            Err(Fault::Store(error)) => Ok(Err(error)),
            Err(fault) => Err(fault),
        }
    }
}

fn enqueue(tx: &WriteTransaction, request: &AsyncRequest) -> Result<(), Fault> {
    let key = async_key(&request.key.tenant, request.id);
    if tx.open_table(RECORDS)?.get(key.as_str())?.is_some() {
        return Err(StoreError::Exists { what: format!("invocation {key}") }.into());
    }
    tx.open_table(PAYLOADS)?.insert(key.as_str(), request.payload.as_slice())?;
    let row = AsyncV1::queued(request);
    place(tx, &key, &row)?;
    write_row(tx, &key, row)
}

fn take_step(tx: &WriteTransaction, key: &str, step: &Step) -> Result<(), Fault> {
    let mut row = read_row(&tx.open_table(RECORDS)?, key)?
        .ok_or_else(|| StoreError::NotFound { what: format!("invocation {key}") })?;
    let next = match (step, row.state) {
        (Step::Forget, _) => None,
        (Step::Begin, StateRow::Queued { .. }) => {
            row.attempts += 1;
            Some(StateRow::Running)
        }
        (Step::RetryAt { when_ms, error }, StateRow::Running) => {
            row.last_error = Some(error.clone());
            Some(StateRow::Queued { not_before_ms: *when_ms })
        }
        (Step::PutBack { when_ms }, StateRow::Running) => {
            row.attempts -= 1;
            Some(StateRow::Queued { not_before_ms: *when_ms })
        }
        (Step::Succeed, StateRow::Running) => Some(StateRow::Succeeded { order: next_order(tx)? }),
        // A queued invocation can be buried too: its function may have been removed meanwhile.
        (Step::Bury { error }, StateRow::Running | StateRow::Queued { .. }) => {
            row.last_error = Some(error.clone());
            Some(StateRow::Dead)
        }
        (Step::Requeue, StateRow::Dead) => {
            row.attempts = 0;
            Some(StateRow::Queued { not_before_ms: row.accepted_at_ms })
        }
        (_, state) => {
            let what = format!("invocation {key}");
            return Err(StoreError::State { what, state: state_name(state) }.into());
        }
    };
    displace(tx, key, &row)?;
    let Some(state) = next else { return erase(tx, key) };
    row.state = state;
    place(tx, key, &row)?;
    if let StateRow::Succeeded { .. } = state {
        tx.open_table(PAYLOADS)?.remove(key)?;
        write_row(tx, key, row)?;
        return drop_old_successes(tx);
    }
    write_row(tx, key, row)
}

const fn state_name(state: StateRow) -> &'static str {
    match state {
        StateRow::Queued { .. } => "queued",
        StateRow::Running => "running",
        StateRow::Succeeded { .. } => "succeeded",
        StateRow::Dead => "dead",
    }
}

/// Enters the invocation into the table of its state.
fn place(tx: &WriteTransaction, key: &str, row: &AsyncV1) -> Result<(), Fault> {
    match row.state {
        StateRow::Queued { not_before_ms } => {
            tx.open_table(DUE)?.insert((not_before_ms, key), ())?;
        }
        StateRow::Running => {
            tx.open_table(RUNNING)?.insert(key, ())?;
        }
        StateRow::Succeeded { order } => {
            tx.open_table(SUCCEEDED)?.insert(order, key)?;
        }
        StateRow::Dead => {
            let function = owner(key, row);
            tx.open_table(DEAD)?.insert((function.as_str(), row.accepted_at_ms, key), ())?;
        }
    }
    Ok(())
}

/// Takes the invocation out of the table of its state.
fn displace(tx: &WriteTransaction, key: &str, row: &AsyncV1) -> Result<(), Fault> {
    let found = match row.state {
        StateRow::Queued { not_before_ms } => tx.open_table(DUE)?.remove((not_before_ms, key))?.is_some(),
        StateRow::Running => tx.open_table(RUNNING)?.remove(key)?.is_some(),
        StateRow::Succeeded { order } => tx.open_table(SUCCEEDED)?.remove(order)?.is_some(),
        StateRow::Dead => {
            let function = owner(key, row);
            tx.open_table(DEAD)?.remove((function.as_str(), row.accepted_at_ms, key))?.is_some()
        }
    };
    match found {
        true => Ok(()),
        false => {
            let state = state_name(row.state);
            Err(Fault::Row(format!("invocation `{key}` is not among those that are {state}")))
        }
    }
}

/// The key of the invocation's function.
fn owner(key: &str, row: &AsyncV1) -> String {
    let tenant = key.split_once('/').map_or(key, |(tenant, _)| tenant);
    format!("{tenant}/{}", row.function)
}

fn next_order(tx: &WriteTransaction) -> Result<u64, Fault> {
    let table = tx.open_table(SUCCEEDED)?;
    let last = table.last()?.map(|(order, _)| order.value());
    Ok(last.map_or(0, |order| order + 1))
}

fn drop_old_successes(tx: &WriteTransaction) -> Result<(), Fault> {
    let mut table = tx.open_table(SUCCEEDED)?;
    while table.len()? > KEEP_SUCCEEDED {
        let Some(key) = table.pop_first()?.map(|(_, key)| key.value().to_owned()) else { break };
        erase(tx, &key)?;
    }
    Ok(())
}

fn erase(tx: &WriteTransaction, key: &str) -> Result<(), Fault> {
    tx.open_table(RECORDS)?.remove(key)?;
    tx.open_table(PAYLOADS)?.remove(key)?;
    Ok(())
}

fn write_row(tx: &WriteTransaction, key: &str, row: AsyncV1) -> Result<(), Fault> {
    tx.open_table(RECORDS)?.insert(key, encode(&AsyncRow::V1(row)).as_slice())?;
    Ok(())
}

fn read_row(
    records: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<AsyncV1>, Fault> {
    let Some(row) = records.get(key)? else { return Ok(None) };
    let AsyncRow::V1(row) = decode("async", key, row.value()).map_err(Fault::Row)?;
    Ok(Some(row))
}

fn read_record(tx: &ReadTransaction, key: &str) -> Result<Option<AsyncRecord>, Fault> {
    let Some(row) = read_row(&tx.open_table(RECORDS)?, key)? else { return Ok(None) };
    let payload = tx.open_table(PAYLOADS)?.get(key)?.map(|p| p.value().to_vec()).unwrap_or_default();
    let record = row.into_record(key, payload);
    record.map(Some).ok_or_else(|| Fault::Row(format!("key `{key}` of table `async`")))
}

/// The record that an index says is there, without its payload: lists may be long, and payloads are not small.
fn indexed(tx: &ReadTransaction, key: &str) -> Result<AsyncRecord, Fault> {
    let row = read_row(&tx.open_table(RECORDS)?, key)?;
    let row = row.ok_or_else(|| Fault::Row(format!("invocation `{key}` has no record")))?;
    row.into_record(key, Vec::new()).ok_or_else(|| Fault::Row(format!("key `{key}` of table `async`")))
}

impl Store {
    /// Stores an invocation, due at once; `done` is called when it is durable, or could not be stored. Many calls at a
    /// time share one commit.
    pub fn enqueue(&self, request: AsyncRequest, done: Done) {
        self.0.writer.submit(Change::Enqueue(Box::new(request)), done);
    }

    /// What may run at `now_ms`, longest due first, at most `limit`. Without payloads, which
    /// [`async_record`](Self::async_record) gives.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<AsyncRecord>, StoreError> {
        self.0.db.read(|tx| {
            let due = tx.open_table(DUE)?;
            let mut found = Vec::new();
            for entry in due.iter()?.take(limit) {
                let (key, ()) = entry.map(|(k, v)| (k, v.value()))?;
                let (when, key) = key.value();
                if when > now_ms {
                    break;
                }
                found.push(indexed(tx, key)?);
            }
            Ok(found)
        })
    }

    /// When the next waiting invocation is due (milliseconds since 1970); `None` when none waits.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn next_due(&self) -> Result<Option<u64>, StoreError> {
        self.0.db.read(|tx| Ok(tx.open_table(DUE)?.first()?.map(|(key, _)| key.value().0)))
    }

    /// How many invocations wait, those of later attempts included.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn queued(&self) -> Result<u64, StoreError> {
        self.0.db.read(|tx| Ok(tx.open_table(DUE)?.len()?))
    }

    /// Notes that an attempt begins; from then on [`due`](Self::due) does not give it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::State`] unless it is queued.
    pub fn begin_attempt(&self, tenant: &TenantId, id: InvocationId) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::Begin))
    }

    /// Notes that the attempt failed with `error_json` and that another is due at `when_ms`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::State`] unless it is running.
    pub fn retry_at(
        &self,
        tenant: &TenantId,
        id: InvocationId,
        when_ms: u64,
        error_json: String,
    ) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::RetryAt { when_ms, error: error_json }))
    }

    /// Takes back that an attempt began: the node had no room for it. Another is due at `when_ms`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::State`] unless it is running.
    pub fn put_back(&self, tenant: &TenantId, id: InvocationId, when_ms: u64) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::PutBack { when_ms }))
    }

    /// Notes that the attempt succeeded. The payload is dropped, the record kept among the last 10,000.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::State`] unless it is running.
    pub fn succeed(&self, tenant: &TenantId, id: InvocationId) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::Succeed))
    }

    /// Puts an invocation into the dead-letter list.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::State`] unless it is running or queued.
    pub fn bury(&self, tenant: &TenantId, id: InvocationId, error_json: String) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::Bury { error: error_json }))
    }

    /// Takes a dead invocation back into the queue, due at once, its attempts counted from 0.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::State`] unless it is dead.
    pub fn requeue(&self, tenant: &TenantId, id: InvocationId) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::Requeue))
    }

    /// Removes an invocation and all that is known about it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn forget(&self, tenant: &TenantId, id: InvocationId) -> Result<(), StoreError> {
        self.0.writer.apply(Change::step(tenant, id, Step::Forget))
    }

    /// Queues again, due at once, what a killed agent left running; gives how many these were. The interrupted attempt
    /// counts: a function that takes the node down with it must not do so for ever.
    ///
    /// # Errors
    /// When the state cannot be written.
    pub fn recover(&self) -> Result<usize, StoreError> {
        self.0.db.write(|tx| {
            let table = tx.open_table(RUNNING)?;
            let keys = table.iter()?.map(|entry| Ok::<_, Fault>(entry?.0.value().to_owned()));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            drop(table);
            for key in &keys {
                let mut row = read_row(&tx.open_table(RECORDS)?, key)?
                    .ok_or_else(|| Fault::Row(format!("invocation `{key}` has no record")))?;
                displace(tx, key, &row)?;
                row.state = StateRow::Queued { not_before_ms: row.accepted_at_ms };
                place(tx, key, &row)?;
                write_row(tx, key, row)?;
            }
            Ok(keys.len())
        })
    }

    /// One invocation with its payload; `None` when the tenant has none of this id.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn async_record(
        &self,
        tenant: &TenantId,
        id: InvocationId,
    ) -> Result<Option<AsyncRecord>, StoreError> {
        self.0.db.read(|tx| read_record(tx, &async_key(tenant, id)))
    }

    /// The dead letters of a function, oldest first, without payloads.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn dead_letters(&self, key: &FunctionKey) -> Result<Vec<AsyncRecord>, StoreError> {
        let function = function_key(key);
        // '~' follows every character that a tenant or an id can have.
        let range = (function.as_str(), 0, "")..=(function.as_str(), u64::MAX, "~");
        self.0.db.read(|tx| {
            let mut found = Vec::new();
            for entry in tx.open_table(DEAD)?.range(range.clone())? {
                found.push(indexed(tx, entry?.0.value().2)?);
            }
            Ok(found)
        })
    }
}
