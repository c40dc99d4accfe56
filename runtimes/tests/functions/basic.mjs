// The functions of basic.py, in JavaScript: both runtimes must answer the same events in the same way.
export const echo = async (event) => event;
export const fail = async () => {
  throw new TypeError('ünusual');
};
export const fail_odd_class = () => {
  class Bad2Name extends Error {
    name = 'Bad 2\r\nName';
  }
  throw new Bad2Name('odd');
};
export const unserializable = async () => ({ big: 1n });
export const nothing = async () => {};
export const size = async (event) => ({ length: event.data.length });
export const large = async (event) => ({ data: 'ß'.repeat(event.length) });
export const environment = async (event) => Object.fromEntries(event.map((name) => [name, process.env[name] ?? null]));

new Date(0).getHours(); // The time zone of before the release has been used.
export const zoned = async (name) => [process.env[name].length, new Date(0).getHours()];
export const context = async (_event, context) => ({
  id: context.awsRequestId,
  name: context.functionName,
  version: context.functionVersion,
  arn: context.invokedFunctionArn,
  memory: context.memoryLimitInMB,
  group: context.logGroupName,
  stream: context.logStreamName,
  traceparent: context.traceparent,
  tracestate: context.tracestate,
  client: context.clientContext.custom.key,
  identity: context.identity.cognitoIdentityId,
  remaining: context.getRemainingTimeInMillis(),
  trace: process.env._X_AMZN_TRACE_ID,
});
export const crash = async () => process.kill(process.pid, 'SIGKILL');
export const leave = async () => process.exit(7);
export const print_two = async () => {
  console.log('first ünïcode');
  console.log('second %s', 'line');
  return null;
};
export const print_much = async () => {
  for (let i = 0; i < 2000; i++) console.log(`${i} ${'x'.repeat(1000)}`);
  process.exit(3);
};
export const stream = awslambda.streamifyResponse(async (event, out) => {
  out.setContentType('text/plain');
  for (const piece of event) out.write(piece);
  out.end();
});
export const stream_http = awslambda.streamifyResponse(async (_event, out) => {
  out = awslambda.HttpResponseStream.from(out, { statusCode: 201, headers: { 'x-a': 'b' } });
  out.write('body');
  out.end();
});
export const stream_large = awslambda.streamifyResponse(async (event, out) => {
  const { Readable } = await import('node:stream');
  const { pipeline } = await import('node:stream/promises');
  await pipeline(Readable.from(Array.from({ length: event.count }, () => Buffer.alloc(event.size, 0x61))), out);
});
export const stream_empty = awslambda.streamifyResponse(async (_event, out) => out.end());
export const stream_fail_early = awslambda.streamifyResponse(async () => {
  throw new RangeError('early');
});
export const stream_fail_late = awslambda.streamifyResponse(async (_event, out) => {
  await new Promise((resolve) => out.write('half', resolve));
  throw new RangeError('late ✗');
});

let running = 0;
let meet;
const together = new Promise((resolve) => (meet = resolve));
export const rendezvous = async (event) => {
  running += 1;
  if (running === event.parties) meet();
  await together;
  return { running };
};

let hooks = [];
stratos.onRestore(() => hooks.push(`first ${process.env.FROM_FRAME}`));
stratos.onRestore(async () => {
  await null;
  hooks.push('second');
});
export const restored = async () => hooks;
