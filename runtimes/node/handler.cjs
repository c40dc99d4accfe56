// Finds and loads the function that `_HANDLER` names: `dir/file.export`, or `dir/file.object.method`.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { createRequire } = require('node:module');
const { RuntimeError } = require('./errors.cjs');

const EXTENSIONS = ['.js', '.mjs', '.cjs'];

/** Splits `dir/file.a.b` into the module `dir/file` and the names `a`, `b`. */
function parseName(name) {
  const base = path.posix.basename(name);
  const dot = base.indexOf('.');
  if (name.split('/').includes('..') || dot < 1 || dot === base.length - 1) {
    throw new RuntimeError('Runtime.MalformedHandlerName', `handler '${name}' is not of the form 'file.export'`);
  }
  return { module: path.posix.join(path.posix.dirname(name), base.slice(0, dot)), names: base.slice(dot + 1).split('.') };
}

/** What a `.js` file is: the `type` of the nearest package.json at or below the task root. */
function isModuleScope(file, root) {
  for (let directory = path.dirname(file); ; directory = path.dirname(directory)) {
    try {
      return JSON.parse(fs.readFileSync(path.join(directory, 'package.json'), 'utf8')).type === 'module';
    } catch (error) {
      if (error.code !== 'ENOENT') throw error;
    }
    if (directory === root || directory === path.dirname(directory)) return false;
  }
}

async function loadModule(file, root) {
  const extension = path.extname(file);
  if (extension === '.mjs' || (extension === '.js' && isModuleScope(file, root))) {
    return import(require('node:url').pathToFileURL(file).href);
  }
  // `require` rather than `import`: it sees every export, also those the ESM loader's lexer cannot.
  return createRequire(file)(file);
}

/** The error that user code failed to load with, under the name the Runtime API has for it. */
function asInitError(error) {
  if (error?.code === 'MODULE_NOT_FOUND' || error?.code === 'ERR_MODULE_NOT_FOUND') {
    return new RuntimeError('Runtime.ImportModuleError', error.message, error);
  }
  if (error instanceof SyntaxError) return new RuntimeError('Runtime.UserCodeSyntaxError', error.message, error);
  return error;
}

/** Loads the handler. Throws a `RuntimeError`, or what the user's module itself threw. */
async function loadHandler(root, name) {
  const { module: moduleName, names } = parseName(name);
  const stem = path.resolve(root, moduleName);
  const file = EXTENSIONS.map((extension) => stem + extension).find((candidate) => fs.existsSync(candidate));
  if (file === undefined) {
    throw new RuntimeError('Runtime.ImportModuleError', `no file '${moduleName}' with ${EXTENSIONS.join(', ')} in ${root}`);
  }
  let found;
  try {
    found = await loadModule(file, root);
  } catch (error) {
    throw asInitError(error);
  }
  let owner;
  for (const [depth, key] of names.entries()) {
    owner = found;
    // A default export that is an object counts as the module, as it does for code compiled from ESM to CommonJS and back.
    found = owner?.[key] ?? (depth === 0 ? owner?.default?.[key] : undefined);
  }
  if (typeof found !== 'function') {
    const problem = found === undefined ? 'is not exported' : `is a ${typeof found}, not a function`;
    throw new RuntimeError('Runtime.HandlerNotFound', `'${names.join('.')}' ${problem} in ${path.basename(file)}`);
  }
  // A method keeps its `this`.
  return names.length > 1 ? Object.assign(found.bind(owner), handlerMarks(found)) : found;
}

/** The marks that `awslambda.streamifyResponse` left on a function. */
function handlerMarks(handler) {
  const marks = {};
  for (const symbol of Object.getOwnPropertySymbols(handler)) marks[symbol] = handler[symbol];
  return marks;
}

module.exports = { loadHandler };
