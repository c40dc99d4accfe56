// Numbers as people read them, always with their unit.

export const NONE = '–';

function digits(value) {
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}

/** A time in microseconds. */
export function time(us) {
  if (us === null || us === undefined) return NONE;
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 999_500) return `${digits(us / 1000)} ms`;
  return us < 120e6 ? `${digits(us / 1e6)} s` : age(us / 1e6);
}

/** An amount of memory in bytes. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1023.5 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${units[unit]}`;
}

/** The same of KiB. */
export function sizeKb(kb) {
  return size(kb === null || kb === undefined ? kb : kb * 1024);
}

/** A whole number. */
export function count(value) {
  return value === null || value === undefined ? NONE : value.toLocaleString('en');
}

/** A figure of the API by its name, which ends with its unit: `connect_us`, `rx_bytes`. The name in words, and it. */
export function figure(name, value) {
  const units = [[/_us$/, time], [/_ms$/, (ms) => time(ms * 1000)], [/_kb$/, sizeKb], [/_bytes$/, size]];
  const unit = typeof value === 'number' ? units.find(([ending]) => ending.test(name)) : undefined;
  const words = (unit ? name.replace(unit[0], '') : name).replaceAll('_', ' ').replace(/\b(slo|cpu)\b/g, (word) => word.toUpperCase());
  const text = unit ? unit[1](value) : typeof value === 'number' ? count(value) : { true: 'yes', false: 'no' }[value] ?? String(value);
  return [words[0].toUpperCase() + words.slice(1), text];
}

/** A share from 0 to 1. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return NONE;
  const value = share * 100;
  if (value > 0 && value < 0.05) return '< 0.1 %';
  return `${value.toFixed(value < 10 && value > 0 ? 1 : 0)} %`;
}

/** A length of time in seconds. */
export function age(seconds) {
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

function two(value) {
  return String(value).padStart(2, '0');
}

/** A moment's time of day, by this machine's clock: hours and minutes, and seconds if asked for. */
export function clock(ms, seconds = false) {
  const date = new Date(ms);
  const text = `${two(date.getHours())}:${two(date.getMinutes())}`;
  return seconds ? `${text}:${two(date.getSeconds())}` : text;
}

/** A moment given as RFC 3339: the time of day with ms, and the date unless it is today. */
export function moment(text) {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) return text;
  const date = new Date(ms);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  const now = new Date();
  const today = now.getFullYear() === date.getFullYear() && now.getMonth() === date.getMonth()
    && now.getDate() === date.getDate();
  const of = `${clock(ms, true)}.${String(date.getMilliseconds()).padStart(3, '0')}`;
  return today ? of : `${day} ${of}`;
}

/** Cuts what is long. */
export function cut(text, most = 80) {
  const string = String(text ?? '');
  return string.length > most ? `${string.slice(0, most - 1)}…` : string;
}

/** Invocation and instance ids begin alike only by chance: their first part names them. */
export function shortId(id) {
  return cut(id, 13);
}
