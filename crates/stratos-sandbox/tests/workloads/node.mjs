// What functions ask of Node: run under a seccomp profile, any failure ends with a non-zero status.
import assert from 'node:assert';
import { execFileSync, spawn, fork } from 'node:child_process';
import crypto from 'node:crypto';
import dgram from 'node:dgram';
import dns from 'node:dns/promises';
import { once } from 'node:events';
import fs from 'node:fs';
import fsp from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import tls from 'node:tls';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import zlib from 'node:zlib';

if (process.argv[2] === 'child') {
  process.send({ pid: process.pid });
  process.disconnect();
} else {
  const dir = await fsp.mkdtemp(path.join(os.tmpdir(), 'seccomp-'));
  try {
    await files(dir);
    await network(dir);
    await processes();
    await computing();
    await information();
  } finally {
    await fsp.rm(dir, { recursive: true });
  }
  console.log('workload done');
}

async function files(dir) {
  const file = path.join(dir, 'a');
  await fsp.writeFile(file, 'hello');
  await fsp.appendFile(file, ' world');
  assert.equal(fs.readFileSync(file, 'utf8'), 'hello world');
  await fsp.copyFile(file, file + '2');
  await fsp.rename(file + '2', file + '3');
  await fsp.symlink('a', path.join(dir, 'link'));
  await fsp.link(file, path.join(dir, 'hard'));
  assert.equal(await fsp.readlink(path.join(dir, 'link')), 'a');
  await fsp.chmod(file, 0o600);
  await fsp.utimes(file, 1, 2);
  await fsp.truncate(file, 5);
  await fsp.access(file);
  await fsp.realpath(file);
  await fsp.mkdir(path.join(dir, 'd/e'), { recursive: true });
  await fsp.cp(path.join(dir, 'd'), path.join(dir, 'f'), { recursive: true });
  for await (const entry of await fsp.opendir(dir)) assert.ok(entry.name);
  await fsp.statfs(dir);
  const handle = await fsp.open(file, 'r+');
  await handle.write(Buffer.from('x'), 0, 1, 0);
  await handle.writev([Buffer.from('a'), Buffer.from('b')]);
  await handle.readv([Buffer.alloc(2)]);
  await handle.datasync();
  await handle.sync();
  await handle.stat();
  await handle.close();
  // Watching is refused as if a limit were used up; polling works. Its first call says that the file is missing.
  assert.throws(() => fs.watch(dir), { code: 'ENOSPC' });
  const watched = path.join(dir, 'watched');
  await new Promise((resolve) => {
    fs.watchFile(watched, { interval: 10 }, (now) => (now.size ? resolve() : fs.writeFileSync(watched, 'x')));
  });
  fs.unwatchFile(watched);
  await pipeline(fs.createReadStream(file), zlib.createGzip(), fs.createWriteStream(file + '.gz'));
  await fsp.unlink(file);
}

async function network(dir) {
  const server = http.createServer((request, response) => request.pipe(response));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = `http://127.0.0.1:${server.address().port}/`;
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => fetch(url, { method: 'POST', body: 'ping' }).then((r) => r.text())),
  );
  assert.ok(answers.every((a) => a === 'ping'));
  server.close();

  const local = net.createServer((socket) => socket.end('bye'));
  local.listen(path.join(dir, 'sock'));
  await once(local, 'listening');
  const client = net.connect(path.join(dir, 'sock'));
  const [data] = await once(client, 'data');
  assert.equal(String(data), 'bye');
  local.close();

  const udp = dgram.createSocket('udp4');
  udp.bind(0, '127.0.0.1');
  await once(udp, 'listening');
  udp.setBroadcast(true);
  udp.setTTL(3);
  udp.send('x', udp.address().port, '127.0.0.1');
  await once(udp, 'message');
  udp.close();

  assert.ok((await dns.lookup('localhost')).address);
  await new dns.Resolver({ timeout: 200, tries: 1 }).resolve4('name.invalid').catch(() => {});
  tls.createSecureContext();
}

async function processes() {
  assert.equal(execFileSync('/bin/cat', { input: 'abc' }).toString(), 'abc');
  const [code] = await once(spawn('/bin/sh', ['-c', 'exit 3']), 'exit');
  assert.equal(code, 3);
  const forked = fork(new URL(import.meta.url), ['child']);
  const [message] = await once(forked, 'message');
  assert.equal(message.pid, forked.pid);
  const victim = spawn('/bin/sleep', ['60']);
  victim.kill('SIGTERM');
  await once(victim, 'exit');
  process.on('SIGUSR2', () => {});
  process.kill(process.pid, 'SIGUSR2');
}

async function computing() {
  const workers = [1, 2, 3].map(
    (n) => new Worker(`require('worker_threads').parentPort.postMessage(${n} * 2)`, { eval: true }),
  );
  const answers = await Promise.all(workers.map((w) => once(w, 'message').then(([m]) => m)));
  assert.deepEqual(answers, [2, 4, 6]);
  const wasm = Uint8Array.from([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3, 2, 1, 0, 7, 7, 1, 3, 97, 100, 100, 0, 0,
    10, 9, 1, 7, 0, 32, 0, 32, 1, 106, 11,
  ]);
  assert.equal((await WebAssembly.instantiate(wasm)).instance.exports.add(2, 3), 5);
  new WebAssembly.Memory({ initial: 1, maximum: 10, shared: true }).grow(1);
  await promisify(crypto.scrypt)('password', 'salt', 32);
  await promisify(crypto.generateKeyPair)('ec', { namedCurve: 'P-256' });
  crypto.randomUUID();
  assert.equal(zlib.brotliDecompressSync(zlib.brotliCompressSync('x'.repeat(9999))).length, 9999);
  let garbage = [];
  for (let i = 0; i < 200; i++) garbage = garbage.concat(new Array(5000).fill({ i }));
  await new Promise((resolve) => setTimeout(resolve, 1));
  const { DatabaseSync } = await import('node:sqlite').catch(() => ({}));
  if (DatabaseSync) {
    const database = new DatabaseSync(path.join(os.tmpdir(), `seccomp-${process.pid}.db`));
    database.exec('create table t(a); insert into t values (1)');
    assert.equal(database.prepare('select a from t').get().a, 1);
    database.close();
    fs.unlinkSync(path.join(os.tmpdir(), `seccomp-${process.pid}.db`));
  }
}

async function information() {
  os.cpus();
  os.networkInterfaces();
  os.userInfo();
  os.loadavg();
  os.uptime();
  os.freemem();
  os.getPriority();
  os.availableParallelism();
  process.memoryUsage();
  process.resourceUsage();
  process.cpuUsage();
  process.umask();
  process.getgroups?.();
  process.title = 'workload';
  process.chdir('/');
  process.report?.getReport();
}
