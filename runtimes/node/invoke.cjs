// One invocation: the context object, the three styles of handlers, and the answer.
'use strict';

const { RuntimeError, errorBody, errorType, logError } = require('./errors.cjs');

/** The mark on handlers that stream; the symbol is the one that AWS's own runtime uses. */
const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');

const parseHeader = (text) => (text === undefined ? undefined : JSON.parse(text));

/** What a handler learns about its invocation and its function. */
class Context {
  #deadline;

  constructor(headers) {
    const { env } = process;
    this.#deadline = Number(headers['lambda-runtime-deadline-ms']);
    this.awsRequestId = headers['lambda-runtime-aws-request-id'];
    this.invokedFunctionArn = headers['lambda-runtime-invoked-function-arn'];
    this.functionName = env.AWS_LAMBDA_FUNCTION_NAME;
    this.functionVersion = env.AWS_LAMBDA_FUNCTION_VERSION;
    this.memoryLimitInMB = env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE;
    this.logGroupName = env.AWS_LAMBDA_LOG_GROUP_NAME;
    this.logStreamName = env.AWS_LAMBDA_LOG_STREAM_NAME;
    this.clientContext = parseHeader(headers['lambda-runtime-client-context']);
    this.identity = parseHeader(headers['lambda-runtime-cognito-identity']);
    this.traceparent = headers.traceparent;
    this.tracestate = headers.tracestate;
    this.callbackWaitsForEmptyEventLoop = true;
    // A handler may take this one off its object: `const { getRemainingTimeInMillis } = context`.
    this.getRemainingTimeInMillis = () => Math.max(0, this.#deadline - Date.now());
  }
}

/** An event that arrived, until it is answered. */
class Invocation {
  #connection;
  #request;
  #stream = null;
  /** Called when the event loop runs empty: nothing is left that could still answer. Only set when invocations come one at a time. */
  drained = null;

  constructor(connection, request) {
    this.#connection = connection;
    this.#request = request;
    this.id = request.headers['lambda-runtime-aws-request-id'];
  }

  /** Runs the handler to its end. Returns the request that is left to send, which is empty when the response was streamed. */
  async run(handler, alone) {
    try {
      const event = this.#parseEvent();
      const context = new Context(this.#request.headers);
      if (handler[STREAMING] === undefined) return this.#answer(await this.#call(handler, event, context, alone));
      await this.#callStreaming(handler, event, context);
      return '';
    } catch (thrown) {
      return this.fail(thrown);
    }
  }

  /** Like `run`'s answer, for an error. Also used when the process is about to die of an error nobody caught. */
  fail(thrown) {
    logError(this.id, thrown);
    let request = '';
    const post = () => {
      request = this.#connection.post(
        `/invocation/${this.id}/error`,
        `Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: ${errorType(thrown)}\r\n`,
        errorBody(thrown),
      );
    };
    if (this.#stream) this.#stream.fail(thrown, post);
    else post();
    return request;
  }

  #parseEvent() {
    try {
      return JSON.parse(this.#request.body.toString());
    } catch (error) {
      throw new RuntimeError('Runtime.UnmarshalError', `the event is not JSON: ${error.message}`);
    }
  }

  #answer(result) {
    let body;
    try {
      body = JSON.stringify(result) ?? 'null';
    } catch (error) {
      throw new RuntimeError('Runtime.MarshalError', `the handler's result cannot be written as JSON: ${error.message}`);
    }
    return this.#connection.post(`/invocation/${this.id}/response`, 'Content-Type: application/json\r\n', body);
  }

  #call(handler, event, context, alone) {
    return new Promise((resolve, reject) => {
      const settle = (error, value) => {
        if (error !== undefined && error !== null) reject(error);
        else if (alone && context.callbackWaitsForEmptyEventLoop) this.drained = () => resolve(value);
        else resolve(value);
      };
      context.done = settle;
      context.succeed = (value) => settle(null, value);
      context.fail = (error) => settle(error ?? new Error('context.fail() was called without an error'));
      this.drained = () => resolve(null);

      const result = handler(event, context, settle);
      if (typeof result?.then === 'function') {
        this.drained = () => reject(stalled());
        result.then(resolve, reject);
      } else if (handler.length < 3 && (result !== undefined || !alone)) {
        resolve(result);
      }
      // Otherwise it answers through the callback, or, like a script, by having nothing left to do.
    });
  }

  async #callStreaming(handler, event, context) {
    const { ResponseStream, ended } = require('./streaming.cjs');
    const stream = new ResponseStream(this.#connection, `/invocation/${this.id}/response`);
    this.#stream = stream;
    const nothingLeft = new Promise((_, reject) => {
      this.drained = () => reject(stalled());
    });
    const end = ended(stream);
    end.catch(() => {}); // The handler's own error, if there is one, comes first.
    const returned = (async () => handler(event, stream, context))();
    await Promise.race([Promise.all([returned, end]), nothingLeft]);
  }
}

function stalled() {
  return new RuntimeError('Runtime.HandlerStalled', 'the handler still waits, but nothing is left that could wake it');
}

module.exports = { Invocation, STREAMING };
