// The machine: what it has and uses, how it booted, what is missing on it.

import { get, has } from './api.js';
import { LineChart, sparkline } from './chart.js';
import { el, empty, Facts, marked, section, setAttribute, setText } from './dom.js';
import { age, count, moment, NONE, percent, sizeKb, time } from './format.js';
import { Table } from './table.js';
import { Waterfall } from './waterfall.js';

/** How long the lines reach back, in ms, and how many points that is at most. */
const SPAN_MS = 300_000;
const MOST = 200;
/** How many looks at the node pass between two at its tracing. */
const LOOKS = 15;

/** What was asked since the page was opened; it stays when another view is shown meanwhile. */
const history = [];

function busy(now, before) {
  const work = (cpu) => cpu.user_ms + cpu.system_ms + cpu.stolen_ms;
  const all = (cpu) => work(cpu) + cpu.idle_ms + cpu.wait_ms;
  const passed = all(now) - all(before);
  return passed > 0 ? Math.max(0, work(now) - work(before)) / passed : null;
}

class Tile {
  constructor(name) {
    this.value = el('span', { class: 'tile-value' });
    this.note = el('span', { class: 'tile-note' });
    this.element = el('div', { class: 'tile' }, el('span', { class: 'tile-name' }, name), this.value, this.note);
  }

  update(value, note, values, max) {
    setText(this.value, value);
    setText(this.note, note);
    if (values) sparkline(this.element, values, max);
  }
}

export class NodeView {
  title = 'Node';

  looks = 0;

  constructor() {
    this.tiles = Object.fromEntries(Object.entries({
      cpu: 'CPU', memory: 'Memory', zram: 'Compressed swap', pressure: 'Pressure', instances: 'Instances', disk: 'State disk',
    }).map(([key, name]) => [key, new Tile(name)]));
    this.chart = new LineChart({
      title: 'CPU and memory in use',
      series: [{ label: 'CPU', cls: 's1' }, { label: 'Memory', cls: 's2' }],
      unit: percent,
      max: 1,
      gap: 10_000,
      none: 'The first figures of CPU time need two looks at the node.',
    });
    this.waits = new LineChart({
      title: 'Pressure: time that programs waited',
      series: [{ label: 'for a CPU', cls: 's1' }, { label: 'for memory', cls: 's2' }, { label: 'for a disk', cls: 's3' }],
      unit: percent,
      gap: 10_000,
      none: 'This kernel does not tell.',
    });
    this.facts = new Facts('The node');
    this.missing = el('div');
    this.boot = new Waterfall({ caption: 'Phases of the boot', none: '' });
    this.bootFacts = new Facts('The boot');
    this.bootChoice = el('select', { id: 'boot', onchange: () => this.showBoot() });
    this.bootPick = el('label', { class: 'pick', hidden: true }, 'Boot ', this.bootChoice);
    this.bootNone = empty('This machine was not started by StratOS\'s own PID 1, so no boot and no services are told. An image made by ',
      el('code', {}, 'stratos image build'), ' keeps records of the last ten boots.');
    this.services = new Table({
      caption: 'Services',
      columns: [
        { label: 'Service', text: (row) => row.name },
        { label: 'State', text: (row) => row.state, cls: (row) => (row.state === 'ready' ? 'good' : row.state === 'failed' ? 'bad' : '') },
        { label: 'PID', number: true, text: (row) => row.pid ?? NONE },
        { label: 'Restarts', number: true, text: (row) => count(row.restarts) },
        { label: 'Last exit', text: (row) => row.last_exit ?? NONE },
      ],
      key: (row) => row.name,
      none: 'None.',
    });
    this.abilities = new Table({
      caption: 'What the machine can do',
      columns: [
        { label: 'Ability', text: (row) => row.name },
        { label: 'In use', text: (row) => (row.available ? 'yes' : 'no'), cls: (row) => (row.available ? 'good' : 'warn') },
        { label: 'How', text: (row) => row.detail, cls: () => 'detail' },
      ],
      key: (row) => row.name,
      none: 'Nothing was told.',
    });
    this.layers = new Table({
      caption: 'Runtime layers',
      columns: [
        { label: 'Layer', text: (row) => row.name },
        { label: 'Version', text: (row) => row.version },
        { label: 'Digest', text: (row) => row.digest, cls: () => 'mono detail' },
      ],
      key: (row) => `${row.name} ${row.version}`,
      none: 'This node has no runtime layer: build them with `stratos layer build`.',
    });
    this.groups = new Table({
      caption: 'What the kernel tells of functions',
      columns: [
        { label: 'Group', text: (row) => row.name },
        { label: 'State', text: (row) => row.state.replaceAll('_', ' '), cls: (row) => (row.state === 'refused' ? 'warn' : 'good') },
        { label: 'Programs', text: (row) => row.reason ?? row.programs.join(', '), cls: () => 'detail' },
      ],
      key: (row) => row.name,
      none: 'This node observes nothing in the kernel.',
    });
    this.groupNote = el('p', { class: 'note' });
    this.groupCard = section('Tracing', null, this.groups.element, this.groupNote);
    this.groupCard.hidden = true;
    this.abilityCard = section('Abilities', null, this.abilities.element);
    this.serviceCard = section('Services', null, this.services.element);
    this.element = el('div', {},
      el('div', { class: 'tiles' }, Object.values(this.tiles).map((tile) => tile.element)),
      el('div', { class: 'columns' },
        el('section', { class: 'card', 'aria-label': 'Load' }, this.chart.element),
        el('section', { class: 'card', 'aria-label': 'Pressure' }, this.waits.element)),
      this.missing,
      section('Boot', null, this.bootPick, this.bootFacts.element, this.boot.element, this.bootNone),
      el('div', { class: 'columns' }, this.serviceCard, section('Runtime layers', null, this.layers.element)),
      this.abilityCard,
      this.groupCard,
      section('Machine', null, this.facts.element));
  }

  async refresh(signal) {
    const [node, health, boots] = await Promise.all([
      get('/v1/node', signal), get('/v1/health', signal), this.boots ?? get('/v1/node/boots', signal),
    ]);
    // The boot under way changes until it is ready; an old one no more.
    this.boots = boots.length === 0 || boots[0].ready_us !== null ? boots : null;
    this.remember(node);
    this.showTiles(node, health);
    this.showMissing(health);
    this.showBoots(boots);
    if (this.looks % LOOKS === 0) await this.showTracing(signal);
    this.looks += 1;
    this.services.update(node.init?.services ?? []);
    this.layers.update(health.layers);
    this.abilities.update(node.init?.abilities ?? []);
    this.abilityCard.hidden = !node.init;
    this.serviceCard.hidden = !node.init;
    this.facts.update([
      ['Host name', node.hostname],
      ['StratOS', node.version],
      ['Kernel', `Linux ${node.kernel}`],
      ['Up for', age(node.uptime_s)],
      ['Agent up for', age(health.uptime_s)],
      ['Agent\'s memory', sizeKb(health.agent_rss_kb)],
      ['PID 1', node.managed ? `StratOS's own${node.init ? `, ${sizeKb(node.init.init_rss_kb)}` : ''}` : 'another one than StratOS\'s own'],
      ['Root', node.init?.boot.root_hash ? `verified, ${node.init.boot.root_hash}` : null],
    ]);
  }

  /** What the kernel is asked, which changes hardly ever. */
  async showTracing(signal) {
    const path = '/v1/node/features';
    if (!await has(path, signal)) return;
    const { tracing, groups, dropped } = await get(path, signal);
    this.groupCard.hidden = false;
    this.groups.update(groups);
    const lost = Object.entries(dropped).filter(([, value]) => value > 0).map(([name, value]) => `${count(value)} ${name}`);
    setText(this.groupNote, `Tracing is ${tracing}. Not counted since the node's start, for want of room: ${lost.join(', ') || 'nothing'}.`);
  }

  remember(node) {
    const now = Date.now();
    const before = history.at(-1);
    const cpu = node.cpu && before?.cpu ? busy(node.cpu, before.cpu) : null;
    const used = 1 - node.memory_available_kb / Math.max(1, node.memory_total_kb);
    history.push({ x: now, cpu: node.cpu, use: cpu, memory: used, pressure: node.pressure });
    while (history.length > MOST || now - history[0].x > SPAN_MS) history.shift();
    const axis = { from: now - SPAN_MS, to: now };
    const known = history.filter((point) => point.use !== null);
    this.chart.update({ ...axis, points: known.map((point) => ({ x: point.x, y: [point.use, point.memory] })) });
    const waits = history.filter((point) => point.pressure);
    this.waits.update({
      ...axis,
      points: waits.map(({ x, pressure }) => ({ x, y: [pressure.cpu_some, pressure.memory_some, pressure.io_some].map((p) => p / 100) })),
    });
  }

  showTiles(node, health) {
    const { cpu, memory, zram, pressure, instances, disk } = this.tiles;
    const last = history.at(-1);
    cpu.update(percent(last.use), `of ${count(node.cpus)} CPUs`, history.map((point) => point.use), 1);
    const used = node.memory_total_kb - node.memory_available_kb;
    memory.update(sizeKb(used), `of ${sizeKb(node.memory_total_kb)} in use`, history.map((point) => point.memory), 1);
    const ratio = node.zram_kb > 0 ? `, ${(node.swap_used_kb / node.zram_kb).toFixed(1)} : 1` : '';
    if (node.swap_total_kb === 0) zram.update('none', 'the machine has no swap');
    else zram.update(sizeKb(node.swap_used_kb), `of ${sizeKb(node.swap_total_kb)}, takes ${sizeKb(node.zram_kb)} of memory${ratio}`);
    const waits = node.pressure;
    if (!waits) pressure.update(NONE, 'this kernel does not tell');
    else {
      const most = Math.max(waits.cpu_some, waits.memory_some, waits.io_some) / 100;
      const parts = [['CPU', waits.cpu_some], ['memory', waits.memory_some], ['disk', waits.io_some]];
      pressure.update(percent(most), parts.map(([name, value]) => `${name} ${percent(value / 100)}`).join(' · '),
        history.map((point) => (point.pressure ? point.pressure.cpu_some / 100 : null)), 1);
    }
    instances.update(count(health.instances), `${count(health.queued)} requests waiting`);
    disk.update(sizeKb(node.state_free_kb), `of ${sizeKb(node.state_total_kb)} free`);
  }

  showMissing(health) {
    const key = JSON.stringify(health.missing);
    if (key === this.missingKey) return;
    this.missingKey = key;
    this.missing.replaceChildren(...(health.missing.length === 0 ? [] : [
      el('section', { class: 'card warning' }, el('h2', {}, 'This machine lacks'),
        el('ul', { class: 'plain' }, health.missing.map((one) => el('li', {}, el('strong', {}, marked(one.what)), ': ', marked(one.consequence))))),
    ]));
  }

  showBoots(boots) {
    this.known = boots;
    const numbers = boots.map((boot) => String(boot.number));
    if (numbers.join() !== this.numbers) {
      this.numbers = numbers.join();
      this.bootChoice.replaceChildren(...boots.map((boot) =>
        el('option', { value: boot.number }, `${boot.number}, ${moment(boot.began_at)}`)));
    }
    this.bootPick.hidden = boots.length === 0;
    this.bootNone.hidden = boots.length > 0;
    this.showBoot();
  }

  showBoot() {
    const boot = this.known.find((one) => String(one.number) === this.bootChoice.value) ?? this.known[0];
    setAttribute(this.boot.element, 'hidden', boot ? null : '');
    if (!boot) return;
    const end = Math.max(boot.ready_us ?? 0, ...boot.phases.map((phase) => phase.start_us + phase.duration_us), boot.kernel_us);
    const cls = { ok: 'p-runtime', skipped: 'p-queue', failed: 'p-failed' };
    this.boot.update([
      { key: 'kernel', name: 'kernel', start: 0, duration: boot.kernel_us, cls: 'p-sandbox', detail: `Linux ${boot.kernel}` },
      ...boot.phases.map((phase) => ({
        key: phase.name,
        name: phase.name,
        start: phase.start_us,
        duration: phase.duration_us,
        cls: cls[phase.outcome] ?? 'p-other',
        detail: phase.outcome === 'ok' ? phase.detail : `${phase.outcome}: ${phase.detail}`,
      })),
    ], end);
    this.bootFacts.update([
      ['Ready after', boot.ready_us === null ? 'not yet' : time(boot.ready_us)],
      ['Of that, the kernel', time(boot.kernel_us)],
      ['Began', moment(boot.began_at)],
      ['StratOS', boot.version],
    ]);
  }
}
