// Listens on $PORT only when told so on another port, after a worker has run, and at first with a server that changes its mind.
'use strict';

const http = require('node:http');
const net = require('node:net');
const { Worker } = require('node:worker_threads');

const port = Number(process.env.PORT);
const answer = (_request, response) => response.end(JSON.stringify({ numbers: [Math.random()] }));
const listen = () => http.createServer(answer).listen(port);
const listenTwice = () => {
  const first = net.createServer().listen(port, () => setImmediate(() => first.close(() => setTimeout(listen, 20))));
};
const worker = new Worker('require("node:worker_threads").parentPort.postMessage(typeof stratos)', { eval: true });
worker.on('message', (found) => {
  const control = net.createServer((socket) => {
    socket.destroy();
    control.close(listenTwice);
  });
  control.listen(0, '127.0.0.1', () => console.log(found, control.address().port));
});
