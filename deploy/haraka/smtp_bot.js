// Haraka: log-ins that `smtp-bot authd` answers, and open sessions that end with their credential. Tested with Haraka 3.1.
// As plugins/smtp_bot.js; in config/plugins `tls` and then `smtp_bot`, before whatever decides about senders and recipients.
'use strict'
const net = require('node:net')
const DSN = require('haraka-dsn')

const AUTH = '/run/smtp-bot/auth' // AUTHD_LISTEN
const POLICY = '/run/smtp-bot/policy' // POLICY_LISTEN
const TIMEOUT = 5000 // milliseconds without a word from authd

exports.register = function () {
  this.inherits('auth/auth_base')
  this.blankout_password = true
}

exports.hook_capabilities = (next, connection) => {
  if (connection.tls.enabled) {
    connection.notes.allowed_auth_methods = ['PLAIN', 'LOGIN']
    connection.capabilities.push('AUTH PLAIN LOGIN')
  }
  next()
}

exports.check_plain_passwd = (connection, user, password, done) => {
  const response = Buffer.from(`\0${user}\0${password}`).toString('base64')
  const request = `AUTH\t1\tPLAIN\tservice=smtp\tsecured\trip=${connection.remote.ip}\tresp=${response}\n`
  ask(AUTH, `VERSION\t1\t2\nCPID\t${process.pid}\n${request}`, /^(OK|FAIL)\t1\b(.*)\n/m, (answer) => {
    if (!answer || /\ttemp\b/.test(answer[2])) return done(false, { code: 454, message: '4.7.0 Temporary authentication failure' })
    const granted = answer[1] === 'OK'
    if (granted) connection.notes.smtp_bot = /\tuser=(\S+)/.exec(answer[2])?.[1]
    done(granted)
  })
}

exports.hook_mail = (next, connection) => decide(next, connection, 'MAIL')
exports.hook_rcpt = (next, connection, params) => decide(next, connection, 'RCPT', params[0].address())
exports.hook_data = (next, connection) => decide(next, connection, 'DATA')
exports.hook_data_post = (next, connection) => decide(next, connection, 'END-OF-MESSAGE')

// Asks the policy of authd, with Postfix's names, whether the session may go on.
function decide (next, connection, state, recipient = '') {
  const { notes, remote, transaction } = connection
  if (!notes.smtp_bot) return next()
  const attributes = {
    request: 'smtpd_access_policy', protocol_state: state, protocol_name: 'ESMTP', instance: transaction.uuid,
    client_address: remote.ip, client_port: remote.port, sasl_method: notes.auth_method, sasl_username: notes.smtp_bot,
    sender: transaction.mail_from.address() || '', recipient, recipient_count: recipient ? 0 : transaction.rcpt_to.length,
    size: transaction.data_bytes,
  }
  const request = Object.entries(attributes).map(([name, value]) => `${name}=${value}\n`).join('')
  ask(POLICY, `${request}\n`, /^action=(?:([45]\d\d) [45]\.(\d+)\.(\d+) )?(.*)\n\n/, (answer) => {
    if (!answer) return next(DENYSOFT, DSN.create(451, 'Cannot check the SMTP credential right now', 3, 0))
    const [, code, subject, detail, text] = answer
    if (!code) return next()
    const end = code === '421' ? DENYSOFTDISCONNECT : code < '500' ? DENYSOFT : DENY
    next(end, DSN.create(Number(code), text, Number(subject), Number(detail)))
  })
}

// One question on a connection of its own; hands out the match of its answer, or null when none came.
function ask (path, question, form, done) {
  let said = ''
  const socket = net.connect(path, () => socket.write(question))
  socket.setTimeout(TIMEOUT, () => socket.destroy())
  socket.on('data', (data) => { if (form.test(said += data)) socket.destroy() })
  socket.on('error', () => {}) // `close` follows
  socket.on('close', () => done(form.exec(said)))
}
