'use strict';

exports.callback = (event, context, callback) => setTimeout(callback, 1, null, { got: event });
exports.callback_error = (event, context, callback) => callback(new RangeError('by callback'));
exports.sync = (event) => ({ got: event });
exports.silent = () => {};
exports.legacy = (event, context) => { setImmediate(context.succeed, 'legacy'); };
exports.waits = (event, context, callback) => {
  let finished = false;
  setTimeout(() => (finished = true), 20);
  callback(null, { get finished() { return finished; } });
};
exports.does_not_wait = (event, context, callback) => {
  context.callbackWaitsForEmptyEventLoop = false;
  setTimeout(() => {}, 60_000);
  callback(null, 'at once');
};
exports.stalled = () => new Promise(() => {});
exports.nested = { api: { greeting: 'hello', async get() { return this.greeting; } } };
exports.uncaught = () => new Promise(() => setImmediate(() => { throw new RangeError('nobody caught it'); }));
exports.unhandled = async () => {
  Promise.reject(new RangeError('nobody handled it'));
  await new Promise((resolve) => setTimeout(resolve, 60_000));
};
exports.throws_string = async () => { throw 'just text'; };
exports.not_a_function = 42;
exports.dependency = async () => require('dep').name;
exports.stream_truncated = awslambda.streamifyResponse(async (event, out) => { out.write('half'); });
exports.stream_uncaught = awslambda.streamifyResponse(async (event, out) => {
  await new Promise((resolve) => out.write('half', resolve));
  setImmediate(() => { throw new RangeError('in the middle'); });
  await new Promise((resolve) => setTimeout(resolve, 60_000));
});
