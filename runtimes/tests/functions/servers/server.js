// Prints what the preload left behind, then what a child process sees.
console.log(JSON.stringify([process.env.FROM_FRAME, process.env.NODE_OPTIONS ?? null]));
console.log(require('node:child_process').execFileSync(process.execPath, ['-p', '"child " + process.env.FROM_FRAME']).toString().trim());
