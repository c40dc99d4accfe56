// A server that calls itself once it listens, and so has a `Date` header and an idle connection.
'use strict';

const http = require('node:http');
const { answer, ready } = require('./app.cjs');

http.createServer(answer).listen(Number(process.env.PORT), '127.0.0.1', async () => {
  await (await fetch(`http://127.0.0.1:${process.env.PORT}`)).text();
  ready();
  console.log('warm');
});
