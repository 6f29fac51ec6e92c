"""Words that say nothing about what a text is about, by language.

Invariant: lower case, and only words that are frequent in their own language: the language of a
text is told by whose words cover most of it.
"""

from __future__ import annotations

STOPWORDS: dict[str, frozenset[str]] = {
    "en": frozenset(
        "three four five six seven eight nine ten hundred thousand million billion a about "
        "above across after again against all almost along already also although always am "
        "among an and another any anyone anything are aren't around as at away back be "
        "became because become becomes been before began behind being below better between "
        "both but by came can can't cannot come comes could couldn't did didn't do does "
        "doesn't doing don't done down during each either else enough even ever every "
        "everyone everything far few first for from further gave get gets getting give "
        "given gives go goes going gone got had hadn't has hasn't have haven't having he "
        "her here hers herself him himself his how however i i'm if in indeed instead into "
        "is isn't it it's its itself just keep kept knew know known last later least less "
        "let like likely little long look made make makes making many may maybe me merely "
        "might mine more most mostly much must my myself near nearly need needs neither "
        "never next no nobody none nor not nothing now of off often on once one only onto "
        "or other others otherwise our ours ourselves out over own part per perhaps put "
        "quite rather really s said same saw say says see seem seems seen several shall she "
        "should shouldn't since so some someone something sometimes soon still such take "
        "takes taken t tell than that that's the their theirs them themselves then there "
        "therefore these they thing things think this those though three through throughout "
        "thus to today together told too took toward towards two under unless until up upon "
        "us use used uses using usually very want was wasn't way ways we well went were "
        "weren't what whatever when where whether which while who whole whom whose why will "
        "with within without won't would wouldn't yes yet you your yours yourself".split()
    ),
    "de": frozenset(
        "aber alle allem allen aller alles als also am an andere anderen auch auf aus bei "
        "beim bereits bin bis bist da dabei dadurch dafür damit danach dann daran darauf "
        "daraus darin das dass dazu dein dem den denn der deren des deshalb dessen die dies "
        "diese diesem diesen dieser dieses doch dort du durch ein eine einem einen einer "
        "eines einige er es etwa etwas euch euer für gegen gibt haben habe hat hatte hatten "
        "hier hin hinter ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im immer in indem ins "
        "ist ja jede jedem jeden jeder jedes jedoch kann kein keine keinen können könnte "
        "machen man manche mehr mein meist mich mir mit muss müssen nach neben nicht nichts "
        "noch nun nur ob oder ohne schon sehr sein seine seinem seinen seiner seit sich sie "
        "sind so sogar sollte sondern sowie über um und uns unser unter viel viele vom von "
        "vor war waren was weil weiter welche wenn wer werden wie wieder wir wird wo wurde "
        "wurden während zu zum zur zwar zwei zwischen".split()
    ),
    "fr": frozenset(
        "a à afin ai ainsi alors après au aucun aussi autre autres aux avaient avait avant "
        "avec avoir bien c car ce cela celle celui ces cet cette ceux chaque ci comme "
        "contre d dans de depuis des deux donc dont du elle elles en encore entre est et "
        "était étaient été être eu eux fait font grâce il ils j je jusqu l la le les leur "
        "leurs lors lorsque lui là m mais me même mêmes moins n ne ni non nos notre nous on "
        "ont ou où par parce pas pendant peu peut peuvent plus plusieurs pour pourquoi près "
        "qu quand que quel quelle quelles quels qui quoi s sa sans se sera ses si son sont "
        "sous sur ta tandis te tous tout toute toutes très tu un une vers vos votre vous y "
        "c'est d'un d'une qu'il qu'elle qu'un n'est s'est".split()
    ),
    "es": frozenset(
        "a al algo algunos ante antes aquel así aun aunque bajo bien cada casi como con "
        "contra cual cuando cuya de del desde después donde dos durante e el él ella ellas "
        "ellos en entre era eran es esa ese eso esos esta está estaba están este esto estos "
        "fue fueron gran ha había han hasta hay la las le les lo los luego más me menos mi "
        "mientras mismo mucho muchos muy nada ni no nos nosotros nuestra nuestro o os otra "
        "otras otro otros para pero poco por porque puede pueden pues que qué quien quienes "
        "se según ser si sí sido sin sino sobre solo sólo son su sus también tan tanto te "
        "tener tiene tienen todo todos tras tu tus un una uno unos y ya yo".split()
    ),
    "it": frozenset(
        "a ad agli ai al alla alle allo anche ancora aveva avere c che chi ci come con "
        "contro così cui da dagli dai dal dalla dalle dei del della delle dello di dopo "
        "dove due e è ed era erano essere fa fino fra gli ha hanno i il in io l la le lei "
        "li lo loro lui ma meno mentre molto ne negli nei nel nella nelle nello noi non "
        "nostro o ogni per perché però più poi possono prima può quale quando quasi quello "
        "questa queste questi questo qui se senza si sia solo sono sopra sotto sta stato su "
        "sua sue sugli sui sul sulla suo suoi tra tutti tutto un una uno verso vi".split()
    ),
    "pt": frozenset(
        "a à ainda ao aos apenas após as às até cada com como contra da das de depois desde "
        "dessa desse desta deste do dos durante e é ela elas ele eles em entre era eram "
        "essa esse esta está estão este eu foi foram há isso isto já lhe mais mas me menos "
        "mesmo muito muitos na não nas nem no nos nós nossa nosso num numa o onde os ou "
        "outra outras outro outros para pela pelas pelo pelos pode podem por porque quando "
        "quase que quem se sem ser seu seus são só sob sobre sua suas também tem têm tinha "
        "todo todos tudo um uma você".split()
    ),
    "nl": frozenset(
        "aan al alle als altijd andere bij daar dan dat de deze die dit doen door dus een "
        "en er geen had hebben heeft hem het hier hij hoe hun ik in is ja kan kunnen maar "
        "meer men met mijn moet na naar niet nog nu of om omdat onder ons ook op over te "
        "tegen toch toen tot tussen uit van veel voor waar want waren was wat we wel werd "
        "werden wie wij wordt worden zal ze zelf zich zij zijn zo zonder zou".split()
    ),
}

# A sentence that begins so leans on the one before it.
OPENERS = frozenset(
    "it he she they this that these those such his her their its but and or so yet "
    "however therefore thus hence then also moreover furthermore instead nevertheless "
    "nonetheless otherwise besides still here there another both neither either aber "
    "und doch dieser diese dieses er sie es deshalb daher also jedoch dort dabei mais "
    "et donc il elle ils elles ce cette ces cela pero y esto ese esa estos así él ella "
    "ellos ma quindi questo questa mas isso ele ela maar deze dit dus zij".split()
)
