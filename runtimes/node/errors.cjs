// How errors are told to the Runtime API and to the log.
'use strict';

/** An error with one of the names that the Runtime API defines, such as `Runtime.ImportModuleError`. */
class RuntimeError extends Error {
  constructor(name, message, cause) {
    super(message);
    this.name = name;
    // The user's own stack says more than where the bootstrap noticed.
    if (cause?.stack) this.stack = `${name}: ${cause.stack}`;
  }
}

const isError = (value) => value instanceof Error || (typeof value?.stack === 'string' && typeof value.message === 'string');

/** The JSON that describes any thrown value. */
function errorBody(thrown) {
  if (!isError(thrown)) return JSON.stringify({ errorType: typeof thrown, errorMessage: String(thrown), trace: [] });
  return JSON.stringify({
    errorType: String(thrown.name),
    errorMessage: String(thrown.message),
    trace: String(thrown.stack).split('\n'),
  });
}

/** The error class for the header: `Runtime.*` for the platform's names, `Function.*` for what user code throws. */
function errorType(thrown) {
  const name = isError(thrown) ? String(thrown.name) : '';
  if (/^Runtime\.[A-Z][a-zA-Z]+$/.test(name)) return name;
  return /^[A-Z][a-zA-Z]+$/.test(name) ? `Function.${name}` : 'Function.UnhandledError';
}

/** One log entry for any thrown value. */
function logError(what, thrown) {
  process.stderr.write(`${what}: ${isError(thrown) ? thrown.stack : String(thrown)}\n`);
}

module.exports = { RuntimeError, errorBody, errorType, logError };
