setImmediate(() => { throw new RangeError('later'); }); await new Promise((r) => setTimeout(r, 60_000)); export const handler = 1;
