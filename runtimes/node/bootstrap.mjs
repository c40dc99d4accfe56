// The entry under its ESM name. The bootstrap itself is CommonJS, because Node then starts without its ESM loader, which a CommonJS
// handler never needs. `node bootstrap.cjs` and `node bootstrap.mjs` behave the same.
import './bootstrap.cjs';
